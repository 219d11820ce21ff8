"""A short, seeded piece of each fault drill; the whole of it is a command in the drill's docstring."""

import argparse
import random
import tempfile
from pathlib import Path

import drill_annotate
import drill_cluster
import drill_label
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_killed_actors_workers_and_drivers_cost_annotate_no_record(tmp_path):
    assert drill_annotate.drill(tmp_path, num_kills=3, chance=random.Random(4), seed=4) == 0


@pytest.mark.s3
def test_killed_actors_raylets_drivers_and_servers_cost_label_no_record(tmp_path):
    assert drill_label.drill(tmp_path, num_kills=3, seed=4, num_records=3_000) == 0


@pytest.mark.s3
def test_a_submitted_job_outlives_a_stop_and_the_loss_of_a_node():
    with tempfile.TemporaryDirectory(prefix="d") as folder:  # short: a socket's path has 107 characters
        arguments = argparse.Namespace(kill=["label"], drain=[], stop=["annotate"], screenshot=None)
        assert drill_cluster.drill(Path(folder), arguments) == 0
