"""A short, seeded piece of each fault drill; the whole of it is a command in the drill's docstring."""

import random

import pytest
from drill_annotate import drill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_killed_actors_workers_and_drivers_cost_annotate_no_record(tmp_path):
    assert drill(tmp_path, num_kills=3, chance=random.Random(4), seed=4) == 0
