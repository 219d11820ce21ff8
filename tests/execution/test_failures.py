"""What follows when a worker fails: another attempt in another process, another node, or one clear end."""

import pytest

from llambert.errors import InputError
from llambert.execution import Pool
from llambert.execution.in_process import IN_PROCESS
from llambert.execution.ray_executor import RAY
from tests.execution.failing_workers import Failing, attempts

EXECUTORS = pytest.mark.parametrize("executor", [IN_PROCESS, pytest.param(RAY, marks=pytest.mark.slow)])
PASSING = ("memory", "assert", "ecc", "no device", "nccl", "disk", "reset")


def run(executor, folder, units=({"n": 0}, {"n": 1}), start="", max_attempts=3, **pool):
    outcomes = executor.run("work", Failing, (str(folder), start), list(units), Pool(max_attempts=max_attempts, **pool))
    return sorted(outcome.parts[0].name for outcome in outcomes)


@EXECUTORS
def test_a_worker_that_raises_once_costs_an_attempt(executor, tmp_path):
    units = [{"n": 0}, {"n": 1, "fault": "key once"}, {"n": 2, "fault": "ecc once"}]
    assert run(executor, tmp_path, units, "memory once") == ["0", "1", "2"]
    assert len(attempts(tmp_path, "1")) == len(attempts(tmp_path, "2")) == 2
    assert len(attempts(tmp_path, "start")) == 4  # one failed, two were given up with their units
    if executor is RAY:
        assert len(set(attempts(tmp_path, "start"))) == 4  # each in a process of its own


@EXECUTORS
def test_a_unit_that_always_fails_ends_the_stage_with_its_name_and_its_failure(executor, tmp_path):
    with pytest.raises(
        RuntimeError, match=r'^work: {"n": 1, .*} failed, 3 times, .* KeyError: .no such column'
    ) as failed:
        run(executor, tmp_path, [{"n": 0}, {"n": 1, "fault": "key always"}])
    assert len(attempts(tmp_path, "1")) == 3
    if executor is RAY:
        assert "failing_workers.py" in failed.value.__notes__[0]
        assert len(set(attempts(tmp_path, "1"))) == 3  # each in a process of its own


@EXECUTORS
def test_a_worker_that_can_never_be_made_ends_the_stage_with_its_failure(executor, tmp_path):
    with pytest.raises(RuntimeError, match=r"^work: no worker could start, 3 times, the last time with KeyError"):
        run(executor, tmp_path, start="key always")
    assert len(attempts(tmp_path, "start")) == 3


def test_what_a_user_must_fix_is_not_tried_again(tmp_path):
    with pytest.raises(InputError, match=r"^model x: not there$"):
        run(IN_PROCESS, tmp_path, start="input always")
    with pytest.raises(InputError, match=r"^model x: not there$"):
        run(IN_PROCESS, tmp_path, [{"n": 7, "fault": "input always"}])
    assert len(attempts(tmp_path, "7")) == 1


@pytest.mark.slow
def test_units_of_other_threads_are_finished_before_the_process_of_one_that_failed_ends(tmp_path):
    units = [{"n": n, "fault": "key once" if n % 2 else ""} for n in range(4)]
    assert run(RAY, tmp_path, units, units_in_flight=2) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_of_device_or_network_is_tried_again(fault, tmp_path):
    assert run(IN_PROCESS, tmp_path, [{"n": 0, "fault": f"{fault} once"}], f"{fault} once") == ["0"]


@EXECUTORS
def test_a_fault_that_recurs_in_another_process_of_the_only_node_is_refused_in_one_line(executor, tmp_path):
    with pytest.raises(
        InputError, match=r"^work: no worker could start.* OutOfMemoryError: CUDA out of memory"
    ) as refused:
        run(executor, tmp_path, start="memory always")
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r'^work: {"n": 5, .*} failed.*: AcceleratorError: CUDA error: device-side'):
        run(executor, tmp_path, [{"n": 5, "fault": "assert always"}])
    if executor is RAY:
        assert "in 2 processes of one node (" in str(refused.value)
        assert len(attempts(tmp_path, "5")) == 2
