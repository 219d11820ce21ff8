"""Make categories of the responses: steps (ii) and (iii). Needs the responses in the run (jobs/annotate.py).

    ray job submit --runtime-env runtime_env.yaml --working-dir . -- python jobs/parse.py jobs/recipes/reviews.yaml

Exit status: 0 every response is a silver label or a reject;
2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
An interrupted job resumes when it is submitted again.
"""

from llambert import program
from llambert.stages.parse import parse

if __name__ == "__main__":
    program.job(lambda run, _: parse(run))
