"""What the pilot counts and draws, without a cluster; the pilot itself is run by test_plan.py."""

import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.splits import is_training_gold
from llambert.planning import pilot
from llambert.recipe import ClassifierRecipe
from llambert.run import Run
from llambert.storage.manifest import Manifest
from tests.fixtures.synthetic_run import Plan, write_run


def trained(**counts) -> Manifest:
    rejected = counts.pop("rejected", {})
    num = sum(rejected.values())
    return Manifest(
        stage="finetune", fingerprint="f", num_in=num, num_kept=0, num_rejected=rejected, counts=counts, wall_seconds=1
    )


@pytest.mark.parametrize(
    ("settings", "manifest", "num_steps"),
    [
        # 90 of 100 pilot records are learned from; ten times as many records are annotated.
        ({"epochs": 3, "batch_size": 32}, trained(num_silver_train=90), 3 * 29),
        ({"epochs": 3, "batch_size": 32, "soup_members": 2}, trained(num_silver_train=90), 2 * 3 * 29),
        ({"epochs": 1, "batch_size": 10, "num_records": 500}, trained(num_silver_train=90), 50),
        ({"epochs": 1, "batch_size": 10, "regime": "gold"}, trained(num_gold_train=30), 12),
        # The pilot's cap on gold records is none of the run's.
        (
            {"epochs": 1, "batch_size": 10, "regime": "combined", "gold": {"epochs": 2}},
            trained(num_silver_train=90, num_gold_train=20, rejected={"gold.beyond_num_records": 30}),
            90 + 2 * 20,
        ),
    ],
)
def test_steps_of_the_whole_training_follow_from_the_pilots(settings, manifest, num_steps):
    recipe = ClassifierRecipe(model="encoder", **settings)
    assert pilot.num_training_steps(recipe, manifest, {"silver": 10.0, "gold": 4.0}) == num_steps


def test_the_small_corpus_begins_with_the_annotated_records_and_adds_rare_gold(tmp_path, monkeypatch):
    run = write_run(tmp_path, Plan(num=400, gold=0.1, regime="combined", splits=("train", "test")))
    monkeypatch.setattr(pilot, "NUM_LABELLED", 50)
    few = pilot.with_num_records(run, 30)
    pilot.sample(few)
    rows = pa.concat_tables(pilot.small_corpus(run, few))
    ids = rows[schema.RECORD_ID].to_pylist()
    assert ids[:30] == few.table("sample").read()[schema.RECORD_ID].to_pylist()
    assert len(set(ids)) == len(ids)
    corpus = pa.concat_tables(list(run.table("corpus").iter_tables()))
    gold = corpus.filter(is_training_gold(corpus))[schema.RECORD_ID].to_pylist()
    assert 0 < len(gold) < 40
    assert set(gold) <= set(ids)
    assert pilot.num_gold_records(run) == len(gold)


def test_the_small_corpus_comes_in_parts_for_every_label_actor(tmp_path):
    run = write_run(tmp_path, Plan(num=400))
    recipe = run.recipe.model_copy(update={"label": run.recipe.label.model_copy(update={"max_actors": 4})})
    parts = pilot.small_corpus(Run(recipe, run.task), pilot.with_num_records(run, 30))
    assert len(parts) == 4
    assert sum(part.num_rows for part in parts) == 390  # ten are duplicates


def test_the_small_corpus_has_every_split_though_some_alone_are_annotated(tmp_path, monkeypatch):
    monkeypatch.setattr(pilot, "NUM_LABELLED", 120)
    settings = {"splits": ("train",)}
    run = write_run(tmp_path, Plan(num=400, splits=("train", "test"), num_annotated=100, annotator=settings))
    few = pilot.with_num_records(run, 30)
    pilot.sample(few)
    rows = pa.concat_tables(pilot.small_corpus(run, few))
    ids = rows[schema.RECORD_ID].to_pylist()
    assert ids[:30] == few.table("sample").read()[schema.RECORD_ID].to_pylist()
    assert len(ids) == len(set(ids)) == 120
    assert set(rows[schema.SPLIT].to_pylist()[:30]) == {"train"}
    assert 25 < rows[schema.SPLIT].to_pylist().count("test") < 65  # half of what is beside the annotated records


@pytest.mark.parametrize(
    ("regime", "learned"),
    [
        ("silver", {"train"}),
        ("silver_extra", {"train", "extra"}),
        ("combined", {"train", "extra"}),
        ("gold", {"train", "extra", "test"}),  # from no annotation: nothing to look for
    ],
)
def test_the_pilot_annotates_as_many_records_as_asked_for_of_the_splits_that_are_learned_from(
    tmp_path, regime, learned
):
    run = write_run(tmp_path, Plan(regime=regime, splits=("train", "extra", "test", "test")))
    num = pilot.num_to_annotate(run, 30)
    splits = run.table("sample").read()[schema.SPLIT].to_pylist()
    assert sum(split in learned for split in splits[:num]) == 30
    assert splits[num - 1] in learned  # and no more


def test_a_pilot_looks_for_records_to_learn_from_in_four_times_as_many_at_most(tmp_path):
    run = write_run(tmp_path, Plan(splits=("train", *["test"] * 19)))
    assert pilot.num_to_annotate(run, 30) == 120
    assert pilot.num_to_annotate(run, 90) == 200  # the whole sample
    assert pilot.num_to_annotate(write_run(tmp_path / "without splits", Plan()), 30) == 30
