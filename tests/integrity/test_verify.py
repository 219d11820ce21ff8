"""Planted damage of every kind is found and its part named; a whole run gives no finding."""

import errno
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert import schema
from llambert.annotation.answer_store import ASKED, AnswerStore
from llambert.annotation.part_names import part_name
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.integrity import part_checks, record_ids
from llambert.integrity.finding import Finding, FindingKind
from llambert.integrity.verify import verify
from llambert.run import Run, open_run, record_recipe
from llambert.stages.label import label
from llambert.storage.run_directory import TableDirectory
from tests.fixtures.label_runs import filled_run, make_run
from tests.fixtures.stored_responses import DEFAULTS, key_of, store_responses

FIRST, SECOND = "part-00000-000000.parquet", "part-00000-000001.parquet"
IDS = [f"r{i:05d}" for i in range(40)]


@pytest.fixture
def run(tmp_path) -> Run:
    """A whole run of 50 records, 40 of them sampled, in parts of 20; one silver answer was no category."""
    run = filled_run(tmp_path, 50, gold=True)
    store_responses(run, [{"record_id": i, "text": "x"} for i in IDS], (20, 40))
    fill_table(run, "silver", [{"record_id": i, "text": "x", "split": "all", "label": "positive"} for i in IDS[1:]])
    fill_table(run, "rejects", [{"record_id": IDS[0], "response": "?", "reject_reason": "no_category"}])
    label(run, IN_PROCESS)
    return run


def fill_table(run: Run, name: str, rows: list[dict]) -> None:
    table = run.table(name)
    parts = [
        table.commit_part(f"part-00000-{n:06d}.parquet", pa.Table.from_pylist(rows[n * 20 :][:20], schema=table.schema))
        for n in range((len(rows) + 19) // 20)
    ]
    table.complete(name, parts)


def findings(run: Run) -> list[str]:
    return [str(finding) for finding in verify(run)]


def kinds(run: Run) -> list[tuple[FindingKind, str, str | None]]:
    return [(finding.kind, finding.table, finding.part) for finding in verify(run)]


def rewrite(table: TableDirectory, name: str, rows: pa.Table) -> None:
    """Put other rows into a part and make the manifest agree: damage that no checksum shows."""
    manifest = table.read_manifest()
    old = next(part for part in manifest.parts if part.name == name)
    table.filesystem.rm_file(table.path(name))
    part = table.commit_part(name, rows, counts=old.counts, labels=old.labels, rejected=old.rejected)
    parts = [part if old.name == name else old for old in manifest.parts]
    num = sum(p.num_rows for p in parts) - manifest.num_kept
    table.write_manifest(
        manifest.model_copy(
            update={"parts": parts, "num_kept": manifest.num_kept + num, "num_in": manifest.num_in + num}
        )
    )


def edit_manifest(table: TableDirectory, **changes) -> None:
    path = table.path("manifest.json")
    values = json.loads(table.filesystem.cat_file(path)) | changes
    table.filesystem.pipe_file(path, json.dumps(values).encode())


def test_a_whole_run_has_no_finding(run):
    assert verify(run) == []


def test_a_run_known_by_its_directory_is_verified_from_its_recipe(run):
    record_recipe(run)

    def verify_directory(storage: str) -> list[Finding]:
        return verify(open_run(f"{storage}/recipe.yaml", [f"storage={storage}"]))

    assert verify_directory(run.recipe.storage) == []
    run.table("labels").filesystem.rm_file(run.table("labels").path(SECOND))
    found = [(finding.kind, finding.table, finding.part) for finding in verify_directory(run.recipe.storage)]
    assert (FindingKind.MISSING_PART, "labels", SECOND) in found
    with pytest.raises(InputError, match=r"labels/recipe.yaml: cannot be read"):
        verify_directory(run.recipe.storage + "/labels")


def test_an_unfinished_table_is_a_finding(tmp_path):
    assert (FindingKind.INCOMPLETE, "labels", None) in kinds(make_run(tmp_path))


def test_a_missing_part_is_named_and_so_are_its_records(run):
    labels = run.table("labels")
    labels.filesystem.rm_file(labels.path(SECOND))
    assert findings(run) == [
        f"labels/{SECOND}: the part is missing",
        f"corpus/{SECOND}: 20 records (r00020, r00021, r00022, …) in neither labels nor label_rejects",
    ]
    assert kinds(run) == [(FindingKind.MISSING_PART, "labels", SECOND), (FindingKind.MISSING_RECORD, "corpus", SECOND)]


@pytest.mark.parametrize("name", ["corpus", "sample", "responses", "silver", "labels", "label_rejects"])
def test_a_missing_part_of_any_table_is_found(run, name):
    table = run.table(name)
    first = table.part_names()[0]
    table.filesystem.rm_file(table.path(first))
    assert (FindingKind.MISSING_PART, name, first) in kinds(run)


@pytest.mark.parametrize("position", [10, 200, -200, -5])
def test_one_flipped_bit_anywhere_in_a_part_is_found(run, position):
    labels = run.table("labels")
    content = bytearray(labels.filesystem.cat_file(labels.path(FIRST)))
    content[position] ^= 1
    labels.filesystem.pipe_file(labels.path(FIRST), bytes(content))
    assert (FindingKind.ALTERED, "labels", FIRST) in kinds(run)


@pytest.mark.parametrize("name", ["labels", "label_rejects"])
def test_a_damaged_part_of_a_table_that_is_not_complete_is_found(run, name):
    for unfinished in ("labels", "label_rejects"):
        run.table(unfinished).filesystem.rm_file(run.table(unfinished).path("manifest.json"))
    table = run.table(name)
    content = bytearray(table.filesystem.cat_file(table.path(FIRST)))
    content[10] ^= 1
    table.filesystem.pipe_file(table.path(FIRST), bytes(content))
    table.committed_part(FIRST)  # a restart reads the footer alone
    [line] = [line for line in findings(run) if line.startswith(f"{name}/{FIRST}")]
    assert "is damaged: its pages are not those that were written" in line


def test_a_flipped_bit_in_a_columns_name_is_found(run):
    responses = run.table("responses")
    first = responses.part_names()[0]
    content = bytearray(responses.filesystem.cat_file(responses.path(first)))
    content[content.rindex(b"record_id")] ^= 0x80  # no UTF-8 any more
    responses.filesystem.pipe_file(responses.path(first), bytes(content))
    assert (FindingKind.ALTERED, "responses", first) in kinds(run)


@pytest.mark.parametrize("num_bytes", [0, 4, 500])
def test_a_part_cut_short_is_found(run, num_bytes):
    labels = run.table("labels")
    content = labels.filesystem.cat_file(labels.path(FIRST))
    labels.filesystem.pipe_file(labels.path(FIRST), content[:num_bytes])
    found = kinds(run)
    assert (FindingKind.ALTERED, "labels", FIRST) in found
    assert (FindingKind.UNREADABLE, "labels", FIRST) in found


def test_a_foreign_part_is_found(run):
    labels = run.table("labels")
    labels.commit_part("part-99999-000000.parquet", labels.read_part(FIRST))
    assert kinds(run) == [(FindingKind.UNEXPECTED_PART, "labels", "part-99999-000000.parquet")]


def test_a_part_copied_over_another_is_found_by_its_checksum_and_its_ids(run):
    labels = run.table("labels")
    labels.filesystem.pipe_file(labels.path(SECOND), labels.filesystem.cat_file(labels.path(FIRST)))
    assert kinds(run) == [
        (FindingKind.ALTERED, "labels", SECOND),
        (FindingKind.MISCOUNTED, "labels", SECOND),
        (FindingKind.DUPLICATE, "labels", FIRST),  # once, though the labels cover the corpus as well
        (FindingKind.MISSING_RECORD, "corpus", SECOND),
    ]
    duplicates = f"20 records (r00000, r00001, r00002, …) more than once (also in labels/{SECOND})"
    assert f"labels/{FIRST}: {duplicates}" in findings(run)


def test_a_record_twice_in_one_part_is_found_though_every_sum_agrees(run):
    labels = run.table("labels")
    rows = labels.read_part(FIRST)
    rewrite(labels, FIRST, pa.concat_tables([rows, rows.slice(3, 1)]))
    assert f"labels/{FIRST}: 1 record (r00003) more than once" in findings(run)
    assert kinds(run) == [(FindingKind.DUPLICATE, "labels", FIRST)]


def test_a_fault_of_the_storage_is_no_proof_that_nothing_is_wrong(run, monkeypatch):
    labels = run.table("labels")
    rows = labels.read_part(FIRST)
    rewrite(labels, FIRST, pa.concat_tables([rows, rows.slice(3, 1)]))

    def out_of_reach(*_):
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(TableDirectory, "read_part", out_of_reach)
    with pytest.raises(OSError, match="the disk is gone"):
        verify(run)


def test_a_record_missing_from_a_part_is_found_though_every_sum_agrees(run):
    labels = run.table("labels")
    rewrite(labels, FIRST, labels.read_part(FIRST).slice(1))
    assert f"corpus/{FIRST}: 1 record (r00000) in neither labels nor label_rejects" in findings(run)
    assert kinds(run) == [(FindingKind.MISSING_RECORD, "corpus", FIRST)]


def test_a_record_that_the_corpus_does_not_have_is_found(run):
    labels = run.table("labels")
    rows = labels.read_part(FIRST)
    ids = pa.array(["stranger", *rows["record_id"].to_pylist()[1:]])
    rewrite(labels, FIRST, rows.set_column(0, schema.LABELS.field(0), ids))
    found = findings(run)
    assert f"labels/{FIRST}: 1 record (stranger) that corpus does not have" in found
    assert (FindingKind.UNEXPECTED_RECORD, "labels", FIRST) in kinds(run)
    assert f"corpus/{FIRST}: 1 record (r00000) in neither labels nor label_rejects" in found


def test_a_record_both_labelled_and_rejected_is_found(run):
    rejects = run.table("label_rejects")
    rows = pa.table([["r00007"], ["x"], ["model_error"]], schema=schema.CORPUS_REJECTS)
    rewrite(rejects, FIRST, rows)
    assert f"label_rejects/{FIRST}: 1 record (r00007) more than once (also in labels/{FIRST})" in findings(run)
    [duplicate] = [finding for finding in verify(run) if finding.kind is FindingKind.DUPLICATE]
    assert duplicate.redo == (("label_rejects", FIRST), ("labels", FIRST))


def test_a_sampled_record_that_is_neither_silver_nor_rejected_is_found(run):
    silver = run.table("silver")
    rewrite(silver, FIRST, silver.read_part(FIRST).slice(1))
    assert f"sample/{part_name(0, 20)}: 1 record (r00001) in neither silver nor rejects" in findings(run)


def test_a_changed_schema_is_found(run):
    labels = run.table("labels")
    rows = labels.read_part(SECOND)
    wide = rows.set_column(2, "score", rows["score"].cast(pa.float64()))
    rewrite(labels, SECOND, wide)
    assert f"labels/{SECOND}: column 'score' is double, the schema says float" in findings(run)
    table = TableDirectory(labels.uri)
    rewrite(table, SECOND, rows.append_column("extra", rows["label"]))
    assert f"labels/{SECOND}: its schema differs from that of {FIRST}" in findings(run)
    assert kinds(run) == [(FindingKind.SCHEMA, "labels", SECOND)]
    rewrite(table, SECOND, rows.rename_columns(["id", "label", "score"]))
    assert f"labels/{SECOND}: column 0 should be 'record_id'; it has id, label, score" in findings(run)


@pytest.mark.parametrize(
    ("changes", "kind", "found"),
    [
        ({"fingerprint": "0" * 12}, FindingKind.MANIFEST, "labels: the manifest is of fingerprint 000000000000"),
        ({"num_in": 51, "num_kept": 51}, FindingKind.MANIFEST, "the manifest says 51 rows, its parts together 50"),
        ({"num_in": 51}, FindingKind.MANIFEST, "is damaged"),
        ({"labels": {"positive": 1000}}, FindingKind.MANIFEST, "the manifest counts 1,000 rows labelled positive"),
        ({"num_kept": "many"}, FindingKind.MANIFEST, "is damaged"),
        ({"surprise": 1}, FindingKind.MANIFEST, "is damaged"),
        ({"model_identity": "other"}, FindingKind.OTHER_CHECKPOINT, "its files are not those that the labels were"),
    ],
)
def test_an_edited_manifest_is_found(run, changes, kind, found):
    edit_manifest(run.table("labels"), **changes)
    assert any(finding.kind is kind and found in str(finding) for finding in verify(run)), findings(run)


def test_a_manifest_that_lists_a_part_twice_or_miscounts_it_is_found(run):
    labels = run.table("labels")
    parts = json.loads(labels.filesystem.cat_file(labels.path("manifest.json")))["parts"]
    edit_manifest(labels, parts=[*parts, parts[0]])
    assert f"labels: the manifest lists {FIRST} 2 times" in findings(run)
    parts[0]["counts"]["num_tokens"] += 1
    parts[1]["num_rows"] += 1
    edit_manifest(labels, parts=parts)
    found = findings(run)
    assert f"labels/{FIRST}: its own counts differ from those in the manifest" in found
    assert f"labels/{SECOND}: it has 20 rows, the manifest says 21" in found
    assert {(FindingKind.MISCOUNTED, "labels", part) for part in (FIRST, SECOND)} <= set(kinds(run))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_manifest_that_is_none_is_one_finding(run, content):
    labels = run.table("labels")
    labels.filesystem.pipe_file(labels.path("manifest.json"), content)
    found = [line for line in findings(run) if line.startswith("labels: ")]
    assert len(found) == 1
    assert "is damaged" in found[0]
    assert "\n" not in found[0]


def test_a_changed_checkpoint_is_found(run):
    checkpoint = run.table("checkpoint")
    with open(checkpoint.path("model.safetensors"), "ab") as file:
        file.write(b"x")
    assert kinds(run) == [(FindingKind.ALTERED, "checkpoint", "model.safetensors")]


def test_two_ids_of_one_hash_are_no_finding(run, monkeypatch):
    real = part_checks.hash64

    def colliding(record_ids):
        hashes = real(record_ids)
        for position, record_id in enumerate(record_ids.to_pylist()):
            if record_id in ("r00001", "r00002"):
                hashes[position] = 7
        return hashes

    for module in (part_checks, record_ids):
        monkeypatch.setattr(module, "hash64", colliding)
    assert findings(run) == []


def test_the_result_does_not_depend_on_the_number_of_buckets(run, monkeypatch):
    labels = run.table("labels")
    rows = labels.read_part(FIRST)
    rewrite(labels, FIRST, pa.concat_tables([rows.slice(1), rows.slice(5, 1)]))
    expected = findings(run)
    assert len(expected) == 2
    monkeypatch.setattr(record_ids, "HASHES_PER_BUCKET", 8)
    assert findings(run) == expected


def test_null_ids_are_found(run):
    labels = TableDirectory(run.table("labels").uri)
    rows = labels.read_part(FIRST)
    ids = pa.array([None, *rows["record_id"].to_pylist()[1:]], pa.string())
    rewrite(labels, FIRST, rows.set_column(0, "record_id", ids))
    assert f"labels/{FIRST}: 1 of its rows have no record_id" in findings(run)
    assert (FindingKind.NULL_ID, "labels", FIRST) in kinds(run)
    assert pq.read_schema(labels.path(FIRST)).names == schema.LABELS.names


PASSING = {"response": None, "finish_reason": "error", "error": "busy", "error_kind": "passing"}


def test_responses_that_were_made_again_of_later_answers_leave_nothing_to_find(run):
    responses = run.table("responses")
    before = responses.part_names()
    rows = [{"record_id": i, **(PASSING if i == "r00003" else {})} for i in IDS]
    store_responses(run, rows, (20, 40))
    assert findings(run) == []
    store_responses(run, [{"record_id": i} for i in IDS], (20, 40))
    assert findings(run) == []
    # Parts of an earlier start, or of another driver, may lie there.
    assert set(before) < set(responses.part_names())


STORE_DAMAGE = {
    "lost": (lambda table, name: None, FindingKind.MISSING_PART),
    "empty": (lambda table, name: table.filesystem.pipe_file(table.path(name), b""), FindingKind.UNREADABLE),
    "a folder": (lambda table, name: table.filesystem.makedirs(table.path(name)), FindingKind.UNREADABLE),
    "another part": (
        lambda table, name: table.commit_part(name, table.read_part(table.part_names()[0])),
        FindingKind.ALTERED,
    ),
}


@pytest.mark.parametrize("damage", STORE_DAMAGE)
def test_a_damaged_part_of_the_answer_store_is_found_with_the_responses_that_refer_to_it(run, damage):
    answers, responses = run.table("answers"), run.table("responses")
    plant, kind = STORE_DAMAGE[damage]
    name = next(part.name for part in responses.require_manifest().answers if key_of("r00030") in keys_in(run, part))
    answers.filesystem.rm_file(answers.path(name))
    plant(answers, name)
    found = verify(run)
    assert (kind, "answers", name) in kinds(run)
    assert {(finding.table, finding.part) for finding in found} == {("answers", name)}  # each fault is told once
    redo = {("answers", name), *(("responses", part) for part in responses.part_names())}
    assert all(set(finding.redo) == redo for finding in found)


def answer_otherwise(table: TableDirectory, name: str) -> None:
    answers = [{**DEFAULTS, "key": key_of(i), "response": "other"} for i in IDS[20:]]
    AnswerStore(table).commit(name.split("-")[1], pa.Table.from_pylist(answers, schema=schema.ANSWERS))
    assert name in table.part_names()


def test_a_part_that_another_run_has_made_again_is_whole_and_the_responses_are_made_of_it(run):
    answers, responses = run.table("answers"), run.table("responses")
    name = next(part.name for part in responses.require_manifest().answers if key_of("r00030") in keys_in(run, part))
    answers.filesystem.rm_file(answers.path(name))
    answer_otherwise(answers, name)
    [finding] = verify(run)
    assert (finding.kind, finding.table, finding.part) == (FindingKind.OTHER_COMPANION, "answers", name)
    assert set(finding.redo) == {("responses", part) for part in responses.part_names()}  # and nothing is asked


def keys_in(run: Run, part) -> list[bytes]:
    return run.table("answers").read_part(part.name)["key"].to_pylist()


@pytest.mark.parametrize("position", [10, 200, -200, -5])
def test_one_flipped_bit_anywhere_in_the_answer_store_is_found(run, position):
    answers = run.table("answers")
    name = answers.part_names()[0]
    content = bytearray(answers.filesystem.cat_file(answers.path(name)))
    content[position] ^= 1
    answers.filesystem.pipe_file(answers.path(name), bytes(content))
    found = verify(run)
    assert {(finding.table, finding.part) for finding in found} == {("answers", name)}


def test_answers_to_the_texts_without_content_are_proven_too(run):
    store_responses(run, [{"record_id": "content-free-0"}], name="content_free")
    assert findings(run) == []
    [part] = run.table("content_free").require_manifest().answers
    run.table("answers").filesystem.rm_file(run.table("answers").path(part.name))
    [finding] = verify(run)
    assert (finding.kind, finding.table, finding.part) == (FindingKind.MISSING_PART, "answers", part.name)
    assert {table for table, _ in finding.redo} == {"answers", "content_free"}


def other_answers(run: Run, asked_for: str = "0" * 12) -> str:
    """A part of the store that another run has asked for; its name."""
    table = pa.Table.from_pylist([{**DEFAULTS, "key": key_of("another")}], schema=schema.ANSWERS)
    return AnswerStore(run.table("answers")).commit(asked_for, table).name


def test_answers_of_other_runs_need_only_be_whole(run):
    answers, name = run.table("answers"), other_answers(run)
    assert findings(run) == []
    content = bytearray(answers.filesystem.cat_file(answers.path(name)))
    content[10] ^= 1
    answers.filesystem.pipe_file(answers.path(name), bytes(content))
    found = verify(run)
    assert {(finding.table, finding.part) for finding in found} == {("answers", name)}
    assert {location for finding in found for location in finding.redo} == {("answers", name)}


def test_a_part_of_the_store_that_cannot_be_its_own_is_found(run):
    answers = run.table("answers")
    renamed = f"part-{'0' * 12}-{'1' * 12}.parquet"
    answers.filesystem.cp_file(answers.path(other_answers(run)), answers.path(renamed))
    assert kinds(run) == [(FindingKind.UNEXPECTED_PART, "answers", renamed)]
    answers.filesystem.rm_file(answers.path(renamed))
    labels = run.table("labels")
    answers.filesystem.cp_file(labels.path(FIRST), answers.path(FIRST))
    assert kinds(run) == [(FindingKind.SCHEMA, "answers", FIRST)]
    answers.filesystem.rm_file(answers.path(FIRST))
    answers.filesystem.pipe_file(answers.path("notes.txt"), b"x")
    assert kinds(run) == [(FindingKind.UNEXPECTED_PART, "answers", "notes.txt")]


def test_what_the_store_can_do_without_is_no_finding(run):
    answers = run.table("answers")
    answers.filesystem.pipe_file(answers.path(ASKED), b"{")
    answers.filesystem.makedirs(answers.path("_index"))
    assert findings(run) == []
    for name in ("_index/part-0123456789ab.parquet", ".part-being-written"):
        answers.filesystem.pipe_file(answers.path(name), b"junk")
    assert findings(run) == []
    answers.filesystem.rm_file(answers.path(ASKED))
    assert findings(run) == []


def test_a_response_whose_answer_is_not_where_it_says_is_found(run):
    responses = run.table("responses")
    name = responses.require_manifest().parts[1].name
    rows = responses.read_part(name)
    keys = pa.array([key_of("another"), *rows["key"].to_pylist()[1:]], pa.binary(16))
    rewrite(responses, name, rows.set_column(1, schema.RESPONSES.field("key"), keys))
    in_part = rows["answered_in"][0].as_py()
    problem = f"1 record (r00020) without the answer that should be in answers/{in_part}"
    assert findings(run) == [f"responses/{name}: {problem}"]
    assert kinds(run) == [(FindingKind.MISSING_RECORD, "responses", name)]
    nowhere = pa.array(["part-nowhere.parquet"] * 3 + rows["answered_in"].to_pylist()[3:])
    rewrite(responses, name, rows.set_column(2, schema.RESPONSES.field("answered_in"), nowhere))
    problem = "3 records (r00020, r00021, r00022) without the answer that should be in answers/part-nowhere.parquet"
    assert findings(run) == [f"responses/{name}: {problem}"]
