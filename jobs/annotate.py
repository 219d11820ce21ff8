"""Ask the LLM about the sample: step (i). Needs the sample in the run (jobs/sample.py).

    ray job submit --runtime-env runtime_env.yaml --working-dir . -- python jobs/annotate.py jobs/recipes/reviews.yaml

Records that failed for a reason that may pass (an outage, a time-out) are asked about again by each start.

Exit status: 0 every sampled record has a response;
2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
An interrupted job resumes when it is submitted again.
"""

from llambert import program
from llambert.stages.annotate import annotate

if __name__ == "__main__":
    program.job(annotate)
