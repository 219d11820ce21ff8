"""What a stage says of its work, over all its starts."""

import pytest

from llambert.errors import InputError
from llambert.execution import Outcome, Pool
from llambert.execution.in_process import IN_PROCESS
from llambert.execution.stage_progress import StageProgress
from tests.fixtures.label_runs import make_run

UNITS = [{"number": number} for number in range(3)]


class Works:
    """A second of work a unit, ten of them held; stops with what the last unit names."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure

    def __call__(self, unit: dict) -> Outcome:
        number = unit["number"]
        if number == 2 and self.failure:
            raise self.failure
        times = {"started_at": 100.0 + number, "ended_at": 101.0 + number, "accelerator_seconds": 10.0}
        return Outcome([], 1.0, times, f"replica {number % 2}", ["no stop sequence", f"unit {number}"])


def progress(run, total: int | None = None) -> StageProgress:
    return StageProgress("work", run.table("labels"), total)


def test_notes_are_said_once_each_and_kept(tmp_path, capsys):
    worked = progress(make_run(tmp_path))
    worked.run(IN_PROCESS, Works, (), UNITS, Pool())
    assert worked.notes == ["no stop sequence", "unit 0", "unit 1", "unit 2"]
    assert capsys.readouterr().out.splitlines() == [f"work: {note}" for note in worked.notes]


def test_seconds_add_up_over_starts_and_measures_are_of_this_one(tmp_path):
    run = make_run(tmp_path)
    progress(run).run(IN_PROCESS, Works, (), UNITS, Pool())
    again = progress(run)
    again.run(IN_PROCESS, Works, (), UNITS[:2], Pool())
    assert (again.seconds["busy_seconds"], again.seconds["accelerator_seconds"]) == (5.0, 50.0)
    measures = again.measures()
    assert (measures["busy_share.0"], measures["busy_share.1"]) == (1.0, 1.0)
    assert "busy_share.2" not in measures
    assert progress(run).measures() == {}


@pytest.mark.parametrize("failure", [InputError("no money left"), RuntimeError("lost")])
def test_what_stops_a_stage_is_noted_with_how_far_it_came(tmp_path, failure):
    run = make_run(tmp_path)
    for start in (1, 2):
        with pytest.raises(type(failure), match=str(failure)):
            progress(run, total=7).run(IN_PROCESS, Works, (failure,), UNITS, Pool())
        noted = run.table("labels").read_progress()
        assert (noted["done"], noted["total"], noted["num_failures"]) == (2, 7, start)
        assert noted["failure"].endswith(str(failure))
