"""What a plan said against what the run then took, stage by stage, from one plan and one run.

    python -m tests.benchmarks.bench_plan [--recipe R] [--set key=value …] [--records 500] [--steps plan run compare]

Makes a plan in one process, runs the recipe in another, and prints for every stage of a second or more the time that
was planned, the time in its manifest, and their ratio; then the same for what the pilot had left to do. Where a
machine is quiet for minutes only, each step (plan, annotate, finetune, label, or run for all of it) may be a command
of its own.
"""

import argparse
import subprocess
import sys

from llambert.planning.forecast import forecast, read_pilot
from llambert.run import open_run
from llambert.tables import TABLES

TABLE_OF = {table.stage: table.name for table in TABLES if table.is_required}
CLI = "from llambert.cli import main; main()"
# Ray is on the clock of the first stage that needs it, annotate, as in a whole run.
ONE_STAGE = """
import sys
from llambert.execution.ray_executor import connect
from llambert.run import open_run
from llambert.stages import annotate, finetune, label, parse, sample
run = open_run(sys.argv[2], sys.argv[3:])
if sys.argv[1] == "annotate":
    sample.sample(run)
    annotate.annotate(run)
    parse.parse(run)
else:
    connect()
    {"finetune": finetune.finetune, "label": label.label}[sys.argv[1]](run)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="jobs/recipes/reviews.yaml")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--steps", nargs="+", default=["plan", "run", "compare"])
    arguments = parser.parse_args()
    settings = arguments.settings or ["annotator.num_records=1000", "storage=runs/bench-plan"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    for step in arguments.steps:
        if step == "plan":
            options = ["--records", str(arguments.records), "--no-curve"]
            subprocess.run([sys.executable, "-c", CLI, "plan", arguments.recipe, *options, *flags], check=True)
        elif step == "run":
            subprocess.run([sys.executable, "-c", CLI, "run", arguments.recipe, *flags], check=True)
        elif step == "compare":
            compare(arguments.recipe, settings)
        else:
            subprocess.run([sys.executable, "-c", ONE_STAGE, step, arguments.recipe, *settings], check=True)


def compare(recipe: str, settings: list[str]) -> None:
    run = open_run(recipe, settings)
    pilot = read_pilot(run)
    assert pilot is not None, "there is no plan to compare with: --steps plan first"
    planned = forecast(run.recipe, pilot)
    print(
        f"{'stage':<12}{'planned s':>11}{'interval':>16}{'took s':>9}{'ratio':>7}{'left s':>15}{'took':>8}{'ratio':>7}"
    )
    total = 0.0
    for stage in planned.stages:
        took = run.table(TABLE_OF[stage.stage]).require_manifest().wall_seconds
        total += took
        if took < 1 or stage.is_measured:
            continue
        spent = pilot.stages[stage.stage].spent_seconds
        seconds, left, left_took = stage.seconds, stage.seconds.value - spent, took - spent
        interval = f"{seconds.low:.0f}–{seconds.high:.0f}"
        print(
            f"{stage.stage:<12}{seconds.value:>11.1f}{interval:>16}{took:>9.1f}{took / seconds.value:>7.2f}"
            f"{left:>15.1f}{left_took:>8.1f}{left_took / left:>7.2f}"
        )
    value = planned.total.value
    print(f"{'in all':<12}{value:>11.1f}{'':>16}{total:>9.1f}{total / value:>7.2f}")


if __name__ == "__main__":
    main()
