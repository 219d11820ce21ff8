"""Records are put in a given order, whatever order and tables they are read in and however many windows it takes."""

import random

import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.part_names import rank_range
from llambert.stages import rank_order
from llambert.stages.rank_order import in_rank_order


def tables_of(ids: list[str], rows: int) -> list[pa.Table]:
    shuffled = random.Random(1).sample(ids, len(ids))
    columns = {schema.RECORD_ID: shuffled, schema.TEXT: [f"text of {each}" for each in shuffled]}
    whole = pa.table({**columns, schema.SPLIT: ["all"] * len(ids)}, schema=schema.SAMPLE)
    return [whole.slice(start, rows) for start in range(0, len(ids), rows)]


@pytest.mark.parametrize(("num", "size"), [(0, 5), (1, 5), (10, 5), (237, 5), (237, 300)])
def test_the_rows_of_the_chosen_records_in_their_order(monkeypatch, num, size):
    monkeypatch.setattr(rank_order, "MIN_PARTS_PER_WINDOW", 2)
    ids = [f"r{number}" for number in range(300)]
    chosen = random.Random(2).sample(ids, num)
    parts = list(in_rank_order(tables_of(ids, 37), pa.array(chosen, pa.string()), schema.SAMPLE, size))
    found = [row for _, rows in parts for row in rows.to_pylist()]
    assert [row[schema.RECORD_ID] for row in found] == chosen
    assert [row[schema.TEXT] for row in found] == [f"text of {each}" for each in chosen]
    assert [rank_range(name) for name, _ in parts] == [(n, min(n + size, num)) for n in range(0, num, size)]
    assert all(rows.schema == schema.SAMPLE for _, rows in parts)


def test_a_record_that_is_in_no_table_is_a_fault():
    with pytest.raises(AssertionError, match="is missing"):
        list(in_rank_order(tables_of(["a"], 1), pa.array(["a", "b"]), schema.SAMPLE, 5))
