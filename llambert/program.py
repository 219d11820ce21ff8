"""What a program imports first: from here on SIGTERM and SIGINT end it in one line, while it imports the rest too."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from llambert import stopping

if TYPE_CHECKING:  # takes seconds, in which a signal may arrive
    from llambert.execution import Executor
    from llambert.experiments.experiment_recipe import AnyExperiment
    from llambert.run import Run

stopping.install()


def main() -> None:
    """The console script."""

    def run() -> None:
        from llambert import cli

        cli.main()

    stopping.run(run)


def job(step: "Callable[[Run, Executor], object]") -> None:
    """See ``cli.job``."""

    def run() -> None:
        from llambert import cli

        cli.job(step)

    stopping.run(run)


def experiment_job(run_experiment: "Callable[[AnyExperiment], str]") -> None:
    """See ``cli.experiment_job``."""

    def run() -> None:
        from llambert import cli

        cli.experiment_job(run_experiment)

    stopping.run(run)
