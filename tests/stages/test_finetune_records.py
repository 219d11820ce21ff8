"""What a regime learns from: each gold text once, and silver labels of its own splits."""

from pathlib import Path

import pyarrow as pa
import pytest
from test_finetune import NUM_RECORDS, _complete, make_run, records
from tiny_encoder import save_tiny_encoder

from llambert import schema
from llambert.errors import InputError
from llambert.stages.finetune_records import select, silver_rows


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def test_each_gold_text_is_trained_on_once_and_its_copies_are_counted(tmp_path, encoder):
    run = make_run(tmp_path, encoder, regime="gold")
    ids = records()[0]
    train = ids[2::3]
    # Copies of a train record, of a test record (two of them), and of train records in other splits.
    pairs = [(train[5], train[1]), (train[7], ids[0]), (train[8], ids[0]), (ids[9], train[2]), (ids[10], train[2])]
    _complete(
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
    run = make_run(tmp_path, encoder, regime=regime)
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
    rows, others = silver_rows(make_run(tmp_path, encoder, regime=regime))
    assert (rows.num_rows, others) == (NUM_RECORDS - num_others, num_others)
