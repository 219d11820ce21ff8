"""Label the whole corpus: step (v). Needs the checkpoint in the run (jobs/finetune.py).

    ray job submit --runtime-env runtime_env.yaml --working-dir . -- python jobs/label.py jobs/recipes/reviews.yaml

Exit status: 0 every record is labelled or rejected;
2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
An interrupted job resumes when it is submitted again.
"""

from llambert import program
from llambert.stages.label import label

if __name__ == "__main__":
    program.job(label)
