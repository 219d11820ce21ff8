"""A short piece of the fuzzing, the same inputs every time; ``make fuzz`` goes on for as long as it is told."""

import pytest

from tests.drills.fuzz import TARGETS, fuzz


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_input_ends_in_a_record_a_counted_reject_or_one_clear_error(target):
    fuzz(target, 60, seed=20261122)
