"""``responses`` as readers see it: the sample joined with its answers."""

import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.responses import answers_version, iter_answers
from llambert.errors import Damaged
from tests.fixtures.annotate_runs import open_run
from tests.fixtures.stored_responses import store_responses
from tests.fixtures.tiny_encoder import save_tiny_encoder

ROWS = [
    {"record_id": "a", "text": "A", "response": "first"},
    {"record_id": "b", "text": "B", "finish_reason": "error", "error": "busy", "error_kind": "passing"},
    {"record_id": "c", "text": "C", "finish_reason": "error", "error": "no", "error_kind": "refused"},
    {"record_id": "d", "text": "D", "response": "fourth", "num_prompt_tokens": 7},
    {"record_id": "e", "text": "E", "finish_reason": "error", "error": "busy", "error_kind": "passing"},
]


@pytest.fixture
def run(tmp_path):
    run = open_run(tmp_path, save_tiny_encoder(tmp_path / "model"), num_records=5)
    store_responses(run, ROWS, ends=[2, 4, 5])
    return run


def test_each_record_has_its_answer_or_the_error_that_may_pass(run):
    columns = [schema.RECORD_ID, schema.TEXT, schema.RESPONSE, schema.FINISH_REASON, schema.ERROR, schema.ERROR_KIND]
    parts = list(iter_answers(run.table, columns))
    assert [ranks for ranks, _ in parts] == [(0, 2), (2, 4), (4, 5)]
    assert pa.concat_tables([rows for _, rows in parts]).to_pylist() == [
        {"finish_reason": "stop", "response": None, "error": None, "error_kind": None, **row}
        for row in map(shown, ROWS)
    ]


def shown(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != "num_prompt_tokens"}


def test_columns_come_as_asked_and_without_the_sample_where_none_is_of_it(run):
    whole = pa.concat_tables([rows for _, rows in iter_answers(run.table, schema.JOINED_RESPONSES.names)])
    assert whole.schema.names == schema.JOINED_RESPONSES.names
    assert [field.type for field in whole.schema] == [field.type for field in schema.JOINED_RESPONSES]
    run.table("sample").filesystem.rm(run.table("sample").path(), recursive=True)
    tokens = [rows for _, rows in iter_answers(run.table, [schema.NUM_PROMPT_TOKENS])]
    assert pa.concat_tables(tokens)[0].to_pylist() == [10, 0, 10, 7, 0]


def test_an_answer_that_its_part_lacks_is_no_answer(run):
    table = run.table("answers")
    _, second = table.part_names()
    part = table.read_part(second)
    table.filesystem.rm_file(table.path(second))
    table.commit_part(second, part.slice(1))
    with pytest.raises(Damaged, match="lacks answers"):
        list(iter_answers(run.table, [schema.RESPONSE]))


def test_the_version_changes_with_the_answers(run):
    manifest = run.table("responses").require_manifest()
    assert answers_version(None) == ""
    fewer = manifest.model_copy(update={"parts": manifest.parts[:1]})
    assert len({answers_version(one) for one in (None, manifest, fewer)}) == 3
