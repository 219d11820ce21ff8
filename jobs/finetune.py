"""Fine-tune the encoder: step (iv). Needs the silver labels in the run (jobs/parse.py).

    ray job submit --runtime-env runtime_env.yaml --working-dir . -- python jobs/finetune.py jobs/recipes/reviews.yaml

Exit status: 0 the checkpoint is complete;
2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
An interrupted job resumes when it is submitted again.
"""

from llambert import program
from llambert.stages.finetune import finetune

if __name__ == "__main__":
    program.job(finetune)
