"""One of the paper's tables or figures, with the data and models its recipe names.

On this machine:      python jobs/experiments.py jobs/recipes/experiments/umls-table.yaml --set data.folder=FOLDER
On a Ray cluster:     ray job submit --runtime-env runtime_env.yaml --working-dir . -- \
                          python jobs/experiments.py jobs/recipes/experiments/umls-table.yaml \
                          --set data.folder=s3://bucket/umls --set storage=s3://bucket/experiments

What is stored already is not computed again; an interrupted job resumes. Results: STORAGE/NAME/results.md, .csv,
.parquet and figure.png, .svg. Exit status: 0 done; 2 the recipe or its inputs are at fault; 143 stopped; 1 else.
"""

from llambert import program
from llambert.experiments.experiment import run_experiment

if __name__ == "__main__":
    program.experiment_job(run_experiment)
