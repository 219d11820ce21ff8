"""``responses`` as readers see it: answers that came later in place of errors that passed."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.responses import amended_part, amendment_name, answers_version, iter_answers
from llambert.storage.run_directory import TableDirectory

PART = "part-000000000-000000004.parquet"


def rows(**kinds: str | None) -> pa.Table:
    """Rows by id: an error of the kind given, or an answer that says how often it was asked."""
    return pa.Table.from_pylist(
        [
            {
                schema.RECORD_ID: record_id,
                schema.TEXT: "x",
                schema.PROMPT: "p",
                schema.RESPONSE: None if kind in ("passing", "refused") else kind,
                schema.FINISH_REASON: "error" if kind in ("passing", "refused") else "stop",
                schema.MODEL: "m",
                schema.ERROR_KIND: kind if kind in ("passing", "refused") else None,
                **dict.fromkeys((schema.NUM_PROMPT_TOKENS, schema.NUM_RESPONSE_TOKENS, schema.NUM_TRUNCATED_TOKENS), 1),
            }
            for record_id, kind in kinds.items()
        ],
        schema=schema.RESPONSES,
    )


@pytest.fixture
def table(tmp_path) -> TableDirectory:
    directory = TableDirectory(str(tmp_path / "responses" / "f"), schema.RESPONSES)
    part = directory.commit_part(PART, rows(a="first", b="passing", c="refused", d="passing"))
    amendments = [
        directory.commit_part(amendment_name(PART, 0), rows(b="second")),
        directory.commit_part(amendment_name(PART, 1), rows(d="third", c="must not count")),
    ]
    directory.complete("annotate", [part], amendments=amendments)
    return directory


def test_later_answers_take_the_place_of_errors_that_passed_in_the_order_of_the_part(table):
    ((part, found),) = iter_answers(table, [schema.RECORD_ID, schema.RESPONSE])
    assert part.name == PART
    assert found.to_pylist() == [
        {"record_id": "a", "response": "first"},
        {"record_id": "b", "response": "second"},
        {"record_id": "c", "response": None},
        {"record_id": "d", "response": "third"},
    ]
    ((_, alone),) = iter_answers(table, [schema.RESPONSE])  # whatever columns are asked for
    assert alone.to_pydict() == {"response": ["first", "second", None, "third"]}
    ((_, whole),) = iter_answers(table, schema.RESPONSES.names)
    assert whole.schema == schema.RESPONSES


def test_a_reader_of_the_folder_sees_each_record_once(table):
    (file,) = Path(table.path()).glob("*.parquet")
    assert pd.read_parquet(file)[schema.RECORD_ID].tolist() == ["a", "b", "c", "d"]
    assert table.part_names() == [PART]
    assert table.read([schema.RECORD_ID]).num_rows == 4


def test_an_amendment_is_known_by_its_name():
    assert amended_part(amendment_name(PART, 3)) == PART
    assert amended_part(PART) is None


def test_the_version_of_the_answers_changes_with_each_amendment(table):
    manifest = table.require_manifest()
    fewer = manifest.model_copy(update={"amendments": manifest.amendments[:1]})
    none = manifest.model_copy(update={"amendments": []})
    assert answers_version(none) == answers_version(None) == ""
    assert len({answers_version(one) for one in (manifest, fewer, none)}) == 3
