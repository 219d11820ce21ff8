"""Draw the random subset that the LLM is asked about. Needs the corpus in the run (jobs/ingest.py).

    ray job submit --runtime-env runtime_env.yaml --working-dir . -- python jobs/sample.py jobs/recipes/reviews.yaml

Exit status: 0 the sample is in the run;
2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
An interrupted job resumes when it is submitted again.
"""

from llambert import program
from llambert.stages.sample import sample

if __name__ == "__main__":
    program.job(lambda run, _: sample(run))
