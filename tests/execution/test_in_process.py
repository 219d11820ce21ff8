"""The in-process executor keeps the executor's contract: what a stage sees of it is what it sees of Ray."""

import os
import subprocess
import sys
import threading

import pytest

from llambert.errors import InputError
from llambert.execution import Outcome, Pool
from llambert.execution.in_process import IN_PROCESS
from llambert.execution.ray_executor import RAY
from tests.execution.test_ray_executor import Meeting, Worker


class Place:
    """Says where a unit was done."""

    def __call__(self, unit):
        here = threading.current_thread() is threading.main_thread()
        return Outcome([], measures={"pid": os.getpid(), "in_main_thread": here, "n": unit["n"]})


class Failing:
    """Fails in its second unit, of the code."""

    num_calls = 0

    def __call__(self, unit):
        type(self).num_calls += 1
        if unit["n"] == 1:
            raise KeyError("no such column")
        return Outcome([])


@pytest.mark.slow
def test_the_outcomes_are_those_of_ray(tmp_path):
    units = [{"n": n} for n in range(5)]
    alone, through_ray = (
        list(executor.run("count", Worker, (str(tmp_path),), units, Pool())) for executor in (IN_PROCESS, RAY)
    )
    assert alone == sorted(through_ray, key=lambda outcome: outcome.parts[0].num_rows)


def test_a_worker_works_in_the_callers_thread_one_unit_after_another_where_a_debugger_works():
    outcomes = list(IN_PROCESS.run("where", Place, (), [{"n": n} for n in range(3)], Pool(max_actors=8)))
    expected = {"pid": os.getpid(), "in_main_thread": True}
    assert [outcome.measures for outcome in outcomes] == [{**expected, "n": n} for n in range(3)]


STOPS = """
from llambert.execution import Outcome, Pool
from llambert.execution.in_process import IN_PROCESS

class Stops:
    def __call__(self, unit):
        breakpoint()
        return Outcome([])

print(len(list(IN_PROCESS.run("stops", Stops, (), [{"n": 3}, {"n": 5}], Pool()))), "outcomes")
"""


def test_a_breakpoint_in_a_worker_opens_a_debugger_that_sees_its_unit():
    commands = "p 'seen', unit['n'] * 11\ncontinue\n" * 2
    environment = os.environ | {"PYTHONBREAKPOINT": "pdb.set_trace"}
    done = subprocess.run(
        [sys.executable, "-c", STOPS], input=commands, capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert all(shown in done.stdout for shown in ("('seen', 33)", "('seen', 55)", "2 outcomes"))


def test_a_unit_is_begun_when_its_outcome_is_asked_for(tmp_path):
    outcomes = IN_PROCESS.run("lazy", Worker, (str(tmp_path),), [{"n": n} for n in range(3)], Pool())
    next(outcomes)
    assert [path.name for path in tmp_path.iterdir()] == ["0-0"]


def test_no_worker_is_made_where_there_are_no_units(tmp_path):
    assert list(IN_PROCESS.run("nothing", Worker, (str(tmp_path), "model"), [], Pool())) == []


@pytest.mark.parametrize("units_in_flight", [1, 2])
def test_what_the_user_must_fix_comes_out_as_itself_and_stops_the_stage(tmp_path, units_in_flight):
    units, pool = [{"n": 0}, {"n": 1, "fault": "refused"}, {"n": 2}, {"n": 3}], Pool(units_in_flight=units_in_flight)
    with pytest.raises(InputError, match=r"^unit 1 is damaged: it is missing; repair it$"):
        list(IN_PROCESS.run("bad unit", Worker, (str(tmp_path),), units, pool))
    assert not (tmp_path / "3-0").exists()
    with pytest.raises(InputError, match=r"^model x: not there$"):
        list(IN_PROCESS.run("bad model", Worker, (str(tmp_path), "model"), [{"n": 0}], pool))


def test_a_fault_of_the_code_is_tried_as_often_as_the_pool_says_and_is_the_cause_of_what_is_raised():
    with pytest.raises(RuntimeError, match=r'^faulty: {"n": 1} failed, 2 times, .* KeyError') as failed:
        list(IN_PROCESS.run("faulty", Failing, (), [{"n": 0}, {"n": 1}, {"n": 2}], Pool(max_attempts=2)))
    assert isinstance(failed.value.__cause__, KeyError)
    assert Failing.num_calls == 3


def test_as_many_units_are_in_flight_as_the_pool_says_and_come_back_in_order():
    units = [{"n": n} for n in range(6)]
    outcomes = list(IN_PROCESS.run("meeting", Meeting, (2,), units, Pool(units_in_flight=2)))
    assert [outcome.parts[0].name for outcome in outcomes] == [str(n) for n in range(6)]
    with pytest.raises(RuntimeError, match="BrokenBarrierError"):  # alone in flight, a unit waits for the other in vain
        list(IN_PROCESS.run("alone", Meeting, (2, 0.2), units, Pool()))
