"""A short, seeded piece of each fault drill; the whole of it is a command in the drill's docstring."""

import random

import pytest

from tests.drills import drill, drill_annotate, drill_guarantee, drill_label, schedule

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_killed_actors_workers_and_drivers_cost_annotate_no_record(tmp_path):
    assert drill_annotate.drill(tmp_path, num_kills=3, rng=random.Random(4), seed=4) == 0


@pytest.mark.s3
def test_killed_actors_raylets_drivers_and_servers_cost_label_no_record(tmp_path):
    assert drill_label.drill(tmp_path, num_kills=3, seed=4, num_records=3_000) == 0


@pytest.mark.s3
def test_faults_anywhere_in_the_pipeline_cost_no_record():
    [result] = drill.drill({0: schedule.parse("annotate+0.3 kill driver; label+0.1 corrupt part")})
    assert result.problems == []
    assert result.done == ["kill driver", "corrupt part"]


def test_killed_drivers_cost_a_guarantee_no_answer_and_no_decision(tmp_path):
    assert drill_guarantee.drill(tmp_path, num_kills=3, seed=5, num_rows=40) == []
