"""Forecast time and cost of a run before it starts: `llambert plan` as a job, where the run will be.

On this machine:      python jobs/plan.py jobs/recipes/reviews.yaml
On a Ray cluster:     ray job submit --runtime-env runtime_env.yaml --working-dir . -- \
                          python jobs/plan.py jobs/recipes/reviews.yaml --records 500 --gain 0.5

Exit status: 0 planned; 2 the recipe or its inputs are at fault (a line says where); 143 stopped; 1 else.
"""

import sys

from llambert import program

if __name__ == "__main__":
    sys.argv.insert(1, "plan")
    program.main()
