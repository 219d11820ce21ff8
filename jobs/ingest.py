"""Read the corpus of a recipe into its run: the first step of the method.

    ray job submit --runtime-env runtime_env.yaml --working-dir . -- python jobs/ingest.py jobs/recipes/reviews.yaml

Exit status: 0 the corpus is in the run;
2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
An interrupted job resumes when it is submitted again.
"""

from llambert import program
from llambert.stages.ingest import ingest

if __name__ == "__main__":
    program.job(ingest)
