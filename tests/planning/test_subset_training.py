"""The learning curve learns from, and judges by, what the regime learns from; every training is one of its own."""

from dataclasses import replace

import numpy as np
import pytest

from llambert import schema
from llambert.planning.subset_training import CrossValidation, measure_learning_curve
from tests.fixtures.synthetic_run import Plan, write_run
from tests.fixtures.tiny_encoder import save_tiny_encoder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.fixture
def run_of(tmp_path):
    """A run of a regime whose silver records are of splits train, extra and test in turn; a real encoder."""

    def write(regime, **fields):
        run = write_run(tmp_path / "run", Plan(regime=regime, splits=("train", "extra", "test"), **fields))
        changes = {"model": save_tiny_encoder(tmp_path / "encoder"), "epochs": 1, "max_length": 16}
        recipe = run.recipe.classifier.model_copy(update={**changes, "cpus_per_worker": 1})
        return replace(run, recipe=run.recipe.model_copy(update={"classifier": recipe}))

    return write


@pytest.mark.parametrize(
    ("regime", "learned"),
    [("silver", ["train"]), ("silver_extra", ["train", "extra"]), ("combined", ["train", "extra"])],
)
def test_the_curve_is_of_the_records_that_the_regime_learns_from(run_of, regime, learned):
    run = run_of(regime)
    silver = run.table("silver").read([schema.SPLIT])[schema.SPLIT].to_pylist()
    num_half = sum(split in learned for split in silver) // 2
    curve = measure_learning_curve(run)
    assert list(curve.wrong) == [round(share * num_half) for share in (0.25, 0.5, 1.0)]
    assert {np.shape(wrong) for wrong in curve.wrong.values()} == {(2, 2, num_half)}
    assert np.shape(curve.scores) == (2, num_half)
    assert 1 / 2 <= np.min(curve.scores) < np.max(curve.scores) <= 1  # of the more probable of two categories


def test_the_repeats_of_a_half_are_other_trainings(run_of):
    curve = measure_learning_curve(run_of("silver", num_annotated=196))
    assert any(wrong[0][half] != wrong[1][half] for wrong in curve.wrong.values() for half in (0, 1))


def test_too_few_records_give_no_curve(run_of):
    assert measure_learning_curve(run_of("silver", num_annotated=40)) == CrossValidation()
