"""The pipeline's own overhead: time on the clock against time its models and readers worked, from one run.

    python -m tests.benchmarks.bench_pipeline [--recipe R] [--set key=value …]

Runs the recipe (a complete run is not run again: its manifests are read) and prints, stage by stage and in
all, seconds on the clock, seconds at work summed over workers, and their ratio.
"""

import argparse

from llambert.pipeline import pipeline
from llambert.run import open_run, record_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="jobs/recipes/reviews.yaml")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    settings = arguments.settings or ["annotator.num_records=500", "storage=runs/bench-pipeline"]
    run = record_recipe(open_run(arguments.recipe, settings))
    pipeline(run)
    wall_seconds = busy_seconds = 0.0
    print(f"{'stage':<12}{'on the clock s':>16}{'at work s':>12}{'ratio':>8}")
    for table in (table.name for table in run.tables if table.is_shown):
        manifest = run.table(table).require_manifest()
        # parse and report are their own work: one process, no model to wait for.
        busy = manifest.busy_seconds or manifest.wall_seconds
        wall_seconds, busy_seconds = wall_seconds + manifest.wall_seconds, busy_seconds + busy
        print(f"{manifest.stage:<12}{manifest.wall_seconds:>16.1f}{busy:>12.1f}{busy / manifest.wall_seconds:>8.2f}")
    print(f"{'in all':<12}{wall_seconds:>16.1f}{busy_seconds:>12.1f}{busy_seconds / wall_seconds:>8.2f}")
    print(f"outside model work: {wall_seconds - busy_seconds:.1f} s, {1 - busy_seconds / wall_seconds:.1%}")


if __name__ == "__main__":
    main()
