"""Every kind of damage planted in a whole run is found, set aside and made again: the tables are what they were."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

from llambert import schema
from llambert.execution.in_process import IN_PROCESS
from llambert.integrity.repair import repair, set_aside
from llambert.integrity.verify import Finding, FindingKind, verify
from llambert.pipeline import pipeline
from llambert.recipe import load_recipe
from llambert.run import Run, record_recipe
from llambert.storage.manifest import MANIFEST
from llambert.storage.run_directory import TableDirectory
from llambert.tasks import load_task
from tests.fixtures.tiny_classifier import save_tiny_classifier
from tests.fixtures.tiny_llm import save_tiny_llm

pytestmark = pytest.mark.slow

TABLES = ["corpus", "sample", "responses", "silver", "rejects", "labels"]
RECIPE = """\
name: films
task: reviews
corpus: {{path: {folder}/films.jsonl, rows_per_part: 20}}
annotator:
  model: {folder}/llm
  dtype: float32
  prompt: completion
  mode: score
  num_records: 30
  records_per_part: 10
parse: {{prior_correction: batch}}
classifier: {{model: {folder}/encoder, epochs: 1, max_length: 32, learning_rate: 1.0e-3}}
storage: {folder}/run
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Iterator[Run]:
    """A finished run of 60 records, one of them without text."""
    folder = tmp_path_factory.mktemp("whole")
    save_tiny_llm(folder / "llm")
    save_tiny_classifier(folder / "encoder")
    words = ["good", "great", "moving", "bad", "dull", "never"]
    rows = [
        {"record_id": f"r{n}", "text": f"the film is {words[n % 6]} and {words[n // 6 % 6]} {n}"} for n in range(60)
    ]
    rows[7]["text"] = ""
    (folder / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    recipe = load_recipe(str(folder / "recipe.yaml"))
    run = Run(recipe, load_task(recipe.task))
    record_recipe(run)
    pipeline(run, IN_PROCESS)
    yield run
    ray.shutdown()


@pytest.fixture
def run(whole, tmp_path) -> Run:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(whole.recipe.storage, tmp_path / "run")
    return Run(whole.recipe.model_copy(update={"storage": str(tmp_path / "run")}), whole.task)


def rows(run: Run, table: str) -> list[dict]:
    return run.table(table).read().to_pylist()


def part(table: TableDirectory, number: int) -> Path:
    return Path(table.path(table.part_names()[number]))


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def edit_manifest(table: TableDirectory, **changes) -> None:
    path = Path(table.path(MANIFEST))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(table: TableDirectory, change: Callable[[pa.Table], pa.Table], keep_sums: bool = True) -> None:
    """Other rows in the second part; with ``keep_sums`` the manifest is made to agree with them."""
    name, manifest = table.part_names()[1], table.require_manifest()
    old = next(listed for listed in manifest.parts if listed.name == name)
    rows = change(table.read_part(name))
    Path(table.path(name)).unlink()
    new = TableDirectory(table.uri).commit_part(name, rows, counts=old.counts, labels=old.labels, rejected=old.rejected)
    if keep_sums:
        more = new.num_rows - old.num_rows
        table.write_manifest(
            manifest.model_copy(
                update={
                    "parts": [new if listed.name == name else listed for listed in manifest.parts],
                    "num_in": manifest.num_in + more,
                    "num_kept": manifest.num_kept + more,
                }
            )
        )


def renamed_ids(rows: pa.Table) -> pa.Table:
    ids = pc.binary_join_element_wise("x", rows[schema.RECORD_ID], "")
    return rows.set_column(0, rows.schema.field(0), ids)


def first_row_twice(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows, rows.slice(0, 1)])


def without_first_row(rows: pa.Table) -> pa.Table:
    return rows.slice(1)


def of_other_types(rows: pa.Table) -> pa.Table:
    return rows.set_column(2, "score", rows["score"].cast(pa.float64()))


DAMAGE: dict[str, tuple[str, Callable[[TableDirectory], object]]] = {
    "a part of the corpus deleted": ("corpus", lambda t: part(t, 1).unlink()),
    "a bit of the corpus flipped": ("corpus", lambda t: flip(part(t, 0), 100)),
    "a part of the corpus cut short": ("corpus", lambda t: cut(part(t, 2), 200)),
    "a foreign part in the corpus": ("corpus", lambda t: shutil.copy(part(t, 0), t.path("part-77777-000000.parquet"))),
    "the corpus' manifest cut short": ("corpus", lambda t: cut(Path(t.path(MANIFEST)), 50)),
    "what the corpus rejected deleted": ("corpus_rejects", lambda t: part(t, 0).unlink()),
    "the duplicates deleted": ("duplicates", lambda t: part(t, 0).unlink()),
    "a part of the sample deleted": ("sample", lambda t: part(t, 0).unlink()),
    "a part of the sample altered": ("sample", lambda t: rewrite(t, renamed_ids)),
    "a part of the responses deleted": ("responses", lambda t: part(t, 1).unlink()),
    "a part of the responses empty": ("responses", lambda t: cut(part(t, 1), 0)),
    "the responses' manifest deleted": ("responses", lambda t: Path(t.path(MANIFEST)).unlink()),
    "a silver part deleted": ("silver", lambda t: part(t, 0).unlink()),
    "a silver label lost, all sums agreeing": ("silver", lambda t: rewrite(t, without_first_row)),
    "the checkpoint's weights altered": ("checkpoint", lambda t: flip(Path(t.path("model.safetensors")), -1)),
    "the checkpoint's tokenizer deleted": ("checkpoint", lambda t: Path(t.path("tokenizer.json")).unlink()),
    "a part of the labels deleted": ("labels", lambda t: part(t, 1).unlink()),
    "a part of the labels over another": ("labels", lambda t: shutil.copy(part(t, 0), part(t, 1))),
    "a part of the labels cut short": ("labels", lambda t: cut(part(t, 0), 300)),
    "rows of the labels altered": ("labels", lambda t: rewrite(t, renamed_ids, keep_sums=False)),
    "a label twice, all sums agreeing": ("labels", lambda t: rewrite(t, first_row_twice)),
    "a label lost, all sums agreeing": ("labels", lambda t: rewrite(t, without_first_row)),
    "labels of strangers, all sums agreeing": ("labels", lambda t: rewrite(t, renamed_ids)),
    "labels of another schema": ("labels", lambda t: rewrite(t, of_other_types)),
    "a foreign part in the labels": ("labels", lambda t: shutil.copy(part(t, 0), t.path("part-77777-000000.parquet"))),
    "the labels' manifest of another fingerprint": ("labels", lambda t: edit_manifest(t, fingerprint="0" * 12)),
    "the labels' manifest edited": ("labels", lambda t: edit_manifest(t, labels={"positive": 1000})),
    "the labels' manifest no JSON": ("labels", lambda t: cut(Path(t.path(MANIFEST)), 10)),
    "the labels of another checkpoint": ("labels", lambda t: edit_manifest(t, model_identity="another")),
    "what could not be labelled deleted": ("label_rejects", lambda t: part(t, 0).unlink()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_planted_damage_is_found_and_made_again(run, whole, damage):
    table, plant = DAMAGE[damage]
    plant(run.table(table))
    found = list(repair(run, IN_PROCESS))
    assert any(finding.table in (table, "checkpoint", "corpus", "sample") for finding in found), damage
    assert verify(run) == []
    for name in TABLES:
        assert rows(run, name) == rows(whole, name), f"{damage}: {name}"
    assert run.table("report").read_manifest() is not None


def stopped_in(run: Run, table: str) -> None:
    """As a run is that was killed in the stage of ``table``, when all its parts were committed."""
    for name in {"corpus": TABLES, "responses": TABLES[2:], "labels": ["labels"]}[table]:
        Path(run.table(name).path(MANIFEST)).unlink(missing_ok=True)


UNFINISHED = {
    "a part of the responses cut short": ("responses", "responses", lambda t: cut(part(t, 1), 200)),
    "a bit of the responses flipped": ("responses", "responses", lambda t: flip(part(t, 0), 100)),
    "a part of the corpus cut short": ("corpus", "corpus", lambda t: cut(part(t, 0), 200)),
    "a bit of the corpus' keys flipped": ("corpus", "corpus_keys", lambda t: flip(part(t, 0), 100)),
    "what the corpus rejected deleted": ("corpus", "corpus_rejects", lambda t: part(t, 0).unlink()),
    "a bit of the labels flipped": ("labels", "labels", lambda t: flip(part(t, 1), 60)),
    "what could not be labelled cut short": ("labels", "label_rejects", lambda t: cut(part(t, 0), 20)),
}


@pytest.mark.parametrize("damage", UNFINISHED)
def test_damage_in_a_table_that_is_not_complete_is_named_and_made_again(run, whole, damage):
    stage, table, plant = UNFINISHED[damage]
    stopped_in(run, stage)
    plant(run.table(table))
    found = list(repair(run, IN_PROCESS))
    assert any(finding.table == table and finding.part for finding in found), damage
    assert verify(run) == []
    for name in TABLES:
        assert rows(run, name) == rows(whole, name), f"{damage}: {name}"


def test_only_what_is_damaged_is_made_again(run):  # through Ray
    labels, responses = run.table("labels"), run.table("responses")
    part(labels, 1).unlink()
    before = {path: path.stat().st_mtime_ns for path in Path(run.recipe.storage).rglob("*.parquet")}
    list(repair(run))
    after = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    changed = {path for path in after if after[path] != before[path]}
    assert not {path for path in changed if path.parent in (Path(labels.path()), Path(responses.path()))}
    assert part(labels, 1).exists()


def test_damaged_files_are_kept(run):
    damaged = part(run.table("labels"), 0)
    cut(damaged, 300)
    moved = set_aside(run, verify(run))
    assert f"labels/{run.fingerprints['labels']}/{damaged.name}" in moved
    kept = list(Path(run.recipe.storage, "set_aside").rglob(damaged.name))
    assert any(path.stat().st_size == 300 for path in kept)
    assert not damaged.exists()


def test_a_whole_run_is_left_as_it_is(run):
    before = {path: path.stat().st_mtime_ns for path in Path(run.recipe.storage).rglob("*")}
    assert list(repair(run)) == []
    assert before == {path: path.stat().st_mtime_ns for path in Path(run.recipe.storage).rglob("*")}


def test_damage_that_comes_back_ends_the_repair_and_is_named(run, monkeypatch):
    finding = Finding(FindingKind.INCOMPLETE, "corpus", None, "the disk loses what is written")
    monkeypatch.setattr("llambert.integrity.repair.verify", lambda _: [finding])
    with pytest.raises(RuntimeError, match="still 1 findings, the first: corpus: the disk loses"):
        list(repair(run))
