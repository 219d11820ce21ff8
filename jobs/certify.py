"""Find from which score on the classifier's labels may be kept, for the recipe's guarantee.

Needs the labels in the run (jobs/label.py), and in the recipe the section `guarantee`.

    ray job submit --runtime-env runtime_env.yaml --working-dir . -- \
        python jobs/certify.py jobs/recipes/reviews-certified.yaml

With oracle `people` it writes the sample that they are to decide, and the certificate once they have decided all of it.

Exit status: 0 the certificate is there, or a line says how many of people's answers are missing;
2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
An interrupted job resumes when it is submitted again.
"""

from llambert import program
from llambert.stages.certify import certify

if __name__ == "__main__":
    program.job(certify)
