"""The whole method in one job: ingest, sample, annotate, parse, finetune, label (certify, escalate), report.

On this machine:      python jobs/pipeline.py jobs/recipes/reviews.yaml
On a Ray cluster:     ray job submit --runtime-env runtime_env.yaml --working-dir . -- \
                          python jobs/pipeline.py jobs/recipes/reviews.yaml
With another value:   python jobs/pipeline.py jobs/recipes/reviews.yaml --set annotator.num_records=1000
A small corpus, no Ray: python jobs/pipeline.py jobs/recipes/reviews.yaml --in-process

Exit status: 0 labelled and reported; 2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
An interrupted job resumes when it is submitted again.
"""

from llambert import program
from llambert.pipeline import pipeline

if __name__ == "__main__":
    program.job(pipeline)
