"""Ask the LLM about the records whose label may not be kept, and give every record its final label.

Needs the certificate in the run (jobs/certify.py).

    ray job submit --runtime-env runtime_env.yaml --working-dir . -- \
        python jobs/escalate.py jobs/recipes/reviews-certified.yaml

Where the budget ends first, the least sure records were asked about, and the manifest says what is guaranteed then.

Exit status: 0 every record has its final label, or there is no certificate yet;
2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
An interrupted job resumes when it is submitted again.
"""

from llambert import program
from llambert.stages.escalate import escalate

if __name__ == "__main__":
    program.job(escalate)
