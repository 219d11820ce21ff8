"""A drill's schedule: the same of the same seed, every fault in turn, and whole after it was printed and read."""

import pytest

from tests.drills.schedule import FAULTS, STAGES, draw, parse


def test_a_printed_schedule_is_read_back_whole():
    for number in range(200):
        schedule = draw(3, number)
        assert parse("; ".join(map(str, schedule))) == schedule


def test_the_same_seed_draws_the_same_and_another_another():
    assert [draw(1, n) for n in range(50)] == [draw(1, n) for n in range(50)] != [draw(2, n) for n in range(50)]


def test_two_hundred_drills_hold_every_fault_ten_times_and_every_stage():
    faults = [fault for number in range(200) for fault in draw(0, number)]
    assert all(sum(fault.kind == kind for fault in faults) >= 10 for kind in FAULTS)
    assert {fault.stage for fault in faults} == set(STAGES)


@pytest.mark.parametrize("text", ["", "label kill s3", "labels+1 kill s3", "label+1 kill everything"])
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(ValueError, match="is no fault"):
        parse(text)
