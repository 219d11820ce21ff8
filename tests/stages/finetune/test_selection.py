"""What a regime learns from: each gold text once, silver labels of the regime's splits, later silver labels not."""

from pathlib import Path

import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.responses import RESPONSES_VERSION
from llambert.errors import InputError
from llambert.stages.finetune import finetune
from llambert.stages.finetune.selection import drop_outdated_training, select, silver_rows
from llambert.storage.atomic import write_atomically
from llambert.storage.manifest import Manifest
from tests.fixtures.training_runs import NUM_RECORDS, complete, records
from tests.fixtures.training_runs import make_run as make_training_run


def test_each_gold_text_is_trained_on_once_and_its_copies_are_counted(tmp_path, encoder):
    run = make_training_run(tmp_path, encoder, regime="gold")
    ids = records()[0]
    train = ids[2::3]
    # Copies of a train record, of a test record (two of them), and of train records in other splits.
    pairs = [(train[5], train[1]), (train[7], ids[0]), (train[8], ids[0]), (ids[9], train[2]), (ids[10], train[2])]
    complete(
        run, "duplicates", pa.table([list(column) for column in zip(*pairs, strict=True)], schema.DUPLICATES.names)
    )
    gold = select(run)["gold"]
    assert gold.num_left_out == {"duplicate": 2}
    assert gold.num_in == len(train) == len(gold.train) + len(gold.held_out) + 2
    by_text = dict(zip(records()[1], ids, strict=True))
    used = {by_text[text] for text in gold.train.texts + gold.held_out.texts}
    assert used <= set(train)


@pytest.mark.parametrize("regime", ["silver", "combined"])
def test_silver_labels_of_no_split_that_is_learned_from_are_told_apart_from_no_labels(tmp_path, encoder, regime):
    run = make_training_run(tmp_path, encoder, regime=regime)
    silver = run.table("silver")
    part = silver.commit_part("part-00001.parquet", silver.read().take(list(range(0, NUM_RECORDS, 3))))
    path = Path(silver.path("manifest.json"))
    path.write_text(silver.require_manifest().model_copy(update={"parts": [part]}).model_dump_json())
    with pytest.raises(
        InputError, match=f"regime: {regime} does not learn from .*test.*, and all {part.num_rows} silver"
    ):
        select(run)


@pytest.mark.parametrize(("regime", "num_others"), [("silver", 400), ("silver_extra", 200), ("gold", 0)])
def test_silver_rows_are_those_of_the_splits_that_are_learned_from(tmp_path, encoder, regime, num_others):
    rows, others = silver_rows(make_training_run(tmp_path, encoder, regime=regime))
    assert (rows.num_rows, others) == (NUM_RECORDS - num_others, num_others)


def write(run, name: str, num: int, **fields) -> Manifest:
    return run.table(name).complete(run.tables[name].stage, [], num_kept=num, **fields)


def test_records_answered_after_the_training_are_said_with_how_to_train_on_them(make_run, capsys):
    run = make_run(num_records=8)
    write(run, "silver", 8)
    checkpoint = write(run, "checkpoint", 8, counts={"num_silver": 8})
    assert finetune(run) == checkpoint
    assert capsys.readouterr().out == ""
    write(run, "silver", 11, upstream={RESPONSES_VERSION: "v1"})
    assert finetune(run) == checkpoint  # which stays
    (line,) = capsys.readouterr().out.splitlines()
    assert "older than some silver labels and has not learned from them (3 of 11)" in line
    assert run.table("checkpoint").uri in line


@pytest.mark.parametrize(("later", "is_kept"), [("v1", True), ("v2", False)])
def test_training_that_was_interrupted_is_not_resumed_on_other_records(make_run, later, is_kept):
    run = make_run(num_records=8)
    training = run.table("training")
    write(run, "silver", 8, upstream={RESPONSES_VERSION: "v1"})
    drop_outdated_training(run)
    write_atomically(training.filesystem, training.path("state"), b"half way")
    write(run, "silver", 9, upstream={RESPONSES_VERSION: later})
    drop_outdated_training(run)
    assert training.filesystem.exists(training.path("state")) == is_kept
