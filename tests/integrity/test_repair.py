"""Every kind of damage planted in a whole run is found, set aside and made again: the tables are what they were."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
import torch
from typer.testing import CliRunner

from llambert import schema
from llambert.annotation.responses import RESPONSES_VERSION
from llambert.classifier.inference import validate_checkpoint
from llambert.cli import app
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.integrity.finding import Finding, FindingKind
from llambert.integrity.repair import repair, set_aside
from llambert.integrity.verify import verify
from llambert.pipeline import pipeline
from llambert.planning.forecast import STAGES, Pilot, Timing
from llambert.recipe import load_recipe
from llambert.run import Run, record_recipe
from llambert.serving import deployment
from llambert.storage.manifest import MANIFEST
from llambert.storage.run_directory import TableDirectory
from llambert.tasks import load_task
from tests.fixtures.stored_responses import joined
from tests.fixtures.tiny_classifier import save_tiny_classifier
from tests.fixtures.tiny_llm import save_tiny_llm

pytestmark = pytest.mark.slow

TABLES = ["corpus", "sample", "responses", "content_free", "silver", "rejects", "labels"]
TABLES += ["corpus_rejects", "corpus_keys", "duplicates", "label_rejects"]
RECIPE = """\
name: films
task: reviews
corpus: {{path: {folder}/films.jsonl, rows_per_part: 20}}
annotator:
  model: {models}/llm
  dtype: float32
  prompt: completion
  mode: score
  num_records: 30
  records_per_part: 10
parse: {{prior_correction: contextual}}
label: {{by_label: true}}
classifier: {{model: {models}/encoder, epochs: 1, max_length: 32, learning_rate: 1.0e-3}}
storage: {folder}/run
"""
PILOT = Pilot(
    num_pilot_records=30,
    num_corpus=60,
    num_annotated=30,
    num_annotatable=60,
    num_steps=4,
    stages={name: Timing(num=30, work_seconds=1.0) for name in STAGES},
    measured_at="today",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llm(folder / "llm")
    save_tiny_classifier(folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, models) -> Iterator[Run]:
    """A finished run of 60 records, one of them without text and two of one text, with a copy by label and a plan."""
    yield finished_run(tmp_path_factory.mktemp("whole"), models, "film")
    ray.shutdown()


@pytest.fixture(scope="module")
def other(tmp_path_factory, models) -> Run:
    """A finished run of other texts, whose parts have the names of those of ``whole``."""
    return finished_run(tmp_path_factory.mktemp("other"), models, "play")


def finished_run(folder: Path, models: Path, what: str) -> Run:
    words = ["good", "great", "moving", "bad", "dull", "never"]
    rows = [
        {"record_id": f"r{n}", "text": f"the {what} is {words[n % 6]} and {words[n // 6 % 6]} {n}"} for n in range(60)
    ]
    place = int(what == "play")  # so that what is rejected, and what is a duplicate, differ
    rows[7 + place]["text"] = ""
    rows[9 + place]["text"] = rows[11 + place]["text"]
    (folder / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, models=models))
    recipe = load_recipe(str(folder / "recipe.yaml"))
    run = Run(recipe, load_task(recipe.task))
    record_recipe(run)
    stored = run.table("plan").write_file("pilot.json", PILOT.model_dump_json().encode())
    run.complete("plan", [], num_kept=PILOT.num_pilot_records, files=[stored])
    pipeline(run, IN_PROCESS)
    return run


@pytest.fixture
def run(whole, tmp_path) -> Run:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(whole.recipe.storage, tmp_path / "run")
    return Run(whole.recipe.model_copy(update={"storage": str(tmp_path / "run")}), whole.task)


def rows(run: Run, table: str) -> list[dict]:
    """The rows of a table; those of responses with their answers, whichever part of the store these are in."""
    if table in ("responses", "content_free"):
        return joined(run, table).drop_columns([schema.BUSY_SECONDS]).to_pylist()
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


def with_another_key(rows: pa.Table) -> pa.Table:
    keys = [bytes(16), *rows[schema.KEY].to_pylist()[1:]]
    return rows.set_column(1, rows.schema.field(1), pa.array(keys, pa.binary(16)))


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
    "a part of the answers deleted": ("answers", lambda t: part(t, 1).unlink()),
    "a bit of the answers flipped": ("answers", lambda t: flip(part(t, 0), 100)),
    "a part of the answers cut short": ("answers", lambda t: cut(part(t, -1), 200)),
    "a part of the answers over another": ("answers", lambda t: shutil.copy(part(t, 0), part(t, 1))),
    "a foreign part in the answers": (
        "answers",
        lambda t: shutil.copy(part(t, 0), t.path(f"part-{'0' * 12}-{'0' * 12}.parquet")),
    ),
    "all answers deleted": ("answers", lambda t: shutil.rmtree(t.path())),
    "a response that refers to another's answer": ("responses", lambda t: rewrite(t, with_another_key)),
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
    assert_equal(run, whole)


def assert_equal(run: Run, whole: Run) -> None:
    """Every table is the undisturbed run's, row for row, and every other file is there."""
    for name in TABLES:
        assert rows(run, name) == rows(whole, name), name
    for name in ("labels_by_label", "checkpoint"):
        assert contents(run, name) == contents(whole, name), name
    assert contents(run, "report").keys() == contents(whole, "report").keys()
    assert Path(run.table("labels").path("README.md")).is_file()


def contents(run: Run, table: str) -> dict[str, str]:
    """File of a table -> its checksum, the curves apart, which hold times of day."""
    manifest = run.table(table).require_manifest()
    return {part.name: part.sha256 for part in (*manifest.parts, *manifest.files) if "tfevents" not in part.name}


def replace(path: Path, put: Callable[[Path], object]) -> None:
    """Put something else in the place of a file or folder."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    put(path)


def gone(table: TableDirectory) -> None:
    shutil.rmtree(table.path())


def rewrite_file(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def with_values(column: str, value: object) -> Callable[[pa.Table], pa.Table]:
    """Rows of which the first has another value in a column."""

    def change(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index(column)
        values = [value, *rows[column].to_pylist()[1:]]
        return rows.set_column(
            place, pa.field(column, rows.schema.field(place).type), pa.array(values, rows.schema.field(place).type)
        )

    return change


def reversed_rows(rows: pa.Table) -> pa.Table:
    return rows.take(pa.array(range(rows.num_rows - 1, -1, -1)))


def with_another_column(rows: pa.Table) -> pa.Table:
    return rows.append_column("note", pa.array(["x"] * rows.num_rows))


def swap_tables(table: TableDirectory, other: TableDirectory) -> None:
    """The whole table of another run, under this one's fingerprint."""
    gone(table)
    shutil.copytree(other.path(), table.path())
    edit_manifest(table, fingerprint=table.fingerprint)


def swap_part(table: TableDirectory, other: TableDirectory) -> None:
    shutil.copy(part(other, 0), part(table, 0))


def swap_parts_without_manifest(table: TableDirectory, other: TableDirectory) -> None:
    swap_tables(table, other)
    Path(table.path(MANIFEST)).unlink()


def swap_stores(table: TableDirectory, other: TableDirectory) -> None:
    gone(table)
    shutil.copytree(other.path(), table.path())


def list_first_part_twice(table: TableDirectory) -> None:
    parts = json.loads(Path(table.path(MANIFEST)).read_text())["parts"]
    edit_manifest(table, parts=[*parts, parts[0]])


def old_manifest(table: TableDirectory) -> None:
    """The manifest of an older state, which lists a part less."""
    manifest = json.loads(Path(table.path(MANIFEST)).read_text())
    kept = manifest["parts"][:-1]
    num = sum(part["num_rows"] for part in kept)
    edit_manifest(table, parts=kept, num_in=num + sum(manifest["num_rejected"].values()), num_kept=num)


def name_folder(table: TableDirectory, number: int) -> Path:
    """A file of a copy by label."""
    return sorted(Path(table.path("data")).rglob("*.parquet"))[number]


COMPANIONS = ["corpus_rejects", "corpus_keys", "duplicates", "content_free", "rejects", "label_rejects"]
SOME_COMPANIONS = ["duplicates", "content_free", "label_rejects"]  # a whole one, another's, one by part
REPORT_FILES = ["report.html", "metrics.json"]
CHECKPOINT_FILES = ["README.md", "config.json", "training_record.json"]
Plant = Callable[[TableDirectory, TableDirectory], object]
MORE: dict[str, tuple[str, Plant]] = {
    **{f"{name} deleted": (name, lambda t, _: gone(t)) for name in [*COMPANIONS, "labels_by_label"]},
    **{
        f"a file in the place of {name}": (name, lambda t, _: replace(Path(t.path()), Path.touch))
        for name in SOME_COMPANIONS
    },
    **{f"the manifest of {name} deleted": (name, lambda t, _: Path(t.path(MANIFEST)).unlink()) for name in COMPANIONS},
    **{
        f"the manifest of {name} empty": (name, lambda t, _: cut(Path(t.path(MANIFEST)), 0)) for name in SOME_COMPANIONS
    },
    **{f"{name} of another run": (name, swap_tables) for name in ["corpus_rejects", "corpus_keys", "duplicates"]},
    **{
        f"parts of {name} of another run, without a manifest": (name, swap_parts_without_manifest)
        for name in ["corpus_keys", "content_free"]
    },
    "a part of the corpus' keys of another run": ("corpus_keys", swap_part),
    "a part of the labels of another run": ("labels", swap_part),
    "labels of another run": ("labels", swap_tables),
    "a bit of the rejects flipped": ("rejects", lambda t, _: flip(part(t, 0), 20)),
    "a part of what the labels rejected cut short": ("label_rejects", lambda t, _: cut(part(t, 1), 40)),
    "a folder in the place of a part": ("labels", lambda t, _: replace(part(t, 1), Path.mkdir)),
    "a folder with a file in the place of a part": (
        "labels",
        lambda t, _: replace(part(t, 1), lambda path: (path.mkdir(), (path / "x").touch())),
    ),
    "a folder in the place of a part of the answers": ("answers", lambda t, _: replace(part(t, 0), Path.mkdir)),
    "a link to nothing in the place of a part of the answers": (
        "answers",
        lambda t, _: replace(part(t, 0), lambda p: p.symlink_to("no")),
    ),
    "a part of another table in the answers": (
        "answers",
        lambda t, _: (
            TableDirectory(t.uri).commit_part("part-0.parquet", pa.table({"x": [1]})),
            shutil.copy(t.path("part-0.parquet"), part(t, 1)),
        ),
    ),
    "a file in the place of the store": ("answers", lambda t, _: replace(Path(t.path()), Path.touch)),
    "a file in the place of the folder above the store": (
        "answers",
        lambda t, _: replace(Path(t.path()).parent, Path.touch),
    ),
    "a foreign file in the store": ("answers", lambda t, _: Path(t.path("notes.txt")).write_text("x")),
    "a file in the place of the store's index": ("answers", lambda t, _: Path(t.path("_index")).touch()),
    "the answers of another run": ("answers", swap_stores),
    "a folder in the place of the responses' part": ("responses", lambda t, _: replace(part(t, 0), Path.mkdir)),
    "a link to nothing in the place of a part": (
        "corpus",
        lambda t, _: replace(part(t, 0), lambda p: p.symlink_to("no")),
    ),
    "a link to itself in the place of a part": ("labels", lambda t, _: replace(part(t, 0), lambda p: p.symlink_to(p))),
    "a link to another part": ("labels", lambda t, _: replace(part(t, 1), lambda p: p.symlink_to(part(t, 0)))),
    "a folder in the place of the manifest": ("labels", lambda t, _: replace(Path(t.path(MANIFEST)), Path.mkdir)),
    "a link to nothing in the place of the manifest": (
        "responses",
        lambda t, _: replace(Path(t.path(MANIFEST)), lambda path: path.symlink_to("no")),
    ),
    "a list in the place of the manifest": ("labels", lambda t, _: Path(t.path(MANIFEST)).write_text("[1, 2]")),
    "a manifest of NaN": ("silver", lambda t, _: edit_manifest(t, num_in=float("nan"))),
    "a manifest that is not UTF-8": ("corpus", lambda t, _: Path(t.path(MANIFEST)).write_bytes(b"\xff\xfe{}")),
    "a manifest of a hundred thousand brackets": (
        "labels",
        lambda t, _: Path(t.path(MANIFEST)).write_text("[" * 100_000),
    ),
    "a manifest of an older state": ("labels", lambda t, _: old_manifest(t)),
    "a part listed twice": ("labels", lambda t, _: list_first_part_twice(t)),
    "a file in the place of a table's folder": ("labels", lambda t, _: replace(Path(t.path()), Path.touch)),
    "a file in the place of the folder above": ("labels", lambda t, _: replace(Path(t.path()).parent, Path.touch)),
    "an empty folder in the place of a table": ("responses", lambda t, _: replace(Path(t.path()), Path.mkdir)),
    "a foreign file": ("corpus", lambda t, _: Path(t.path("notes.txt")).write_text("x")),
    "a foreign file in the checkpoint": ("checkpoint", lambda t, _: Path(t.path("added_tokens.json")).write_text("{}")),
    "a part under a name in capitals": (
        "labels",
        lambda t, _: shutil.copy(part(t, 0), t.path(part(t, 0).name.upper()[:-7] + "parquet")),
    ),
    "rows in another order": ("labels", lambda t, _: rewrite(t, reversed_rows, keep_sums=False)),
    "a column more": ("labels", lambda t, _: rewrite(t, with_another_column)),
    "a score that is no number": ("labels", lambda t, _: rewrite(t, with_values("score", float("nan")))),
    "an infinite score": ("labels", lambda t, _: rewrite(t, with_values("score", float("inf")))),
    "a label that is no category": ("labels", lambda t, _: rewrite(t, with_values("label", "meh"))),
    "a record without an ID": ("labels", lambda t, _: rewrite(TableDirectory(t.uri), with_values("record_id", None))),
    "progress.json cut short": ("labels", lambda t, _: cut(Path(t.path("progress.json")), 5)),
    "a folder in the place of progress.json": (
        "responses",
        lambda t, _: replace(Path(t.path("progress.json")), Path.mkdir),
    ),
    "progress.json of the checkpoint of another type": (
        "checkpoint",
        lambda t, _: Path(t.path("progress.json")).write_text("[]"),
    ),
    **{
        f"{name} of the report deleted": ("report", lambda t, _, name=name: Path(t.path(name)).unlink())
        for name in REPORT_FILES
    },
    "a plot of the report deleted": ("report", lambda t, _: next(Path(t.path("plots")).glob("*.svg")).unlink()),
    "metrics.json cut short": ("report", lambda t, _: cut(Path(t.path("metrics.json")), 30)),
    "metrics.json of another type": ("report", lambda t, _: Path(t.path("metrics.json")).write_text("[]")),
    "report.html altered": ("report", lambda t, _: flip(Path(t.path("report.html")), 50)),
    "the report's manifest deleted": ("report", lambda t, _: Path(t.path(MANIFEST)).unlink()),
    "the labels' card deleted": ("labels", lambda t, _: Path(t.path("README.md")).unlink()),
    "the labels' card altered": ("labels", lambda t, _: flip(Path(t.path("README.md")), 50)),
    "the weights cut short": ("checkpoint", lambda t, _: cut(Path(t.path("model.safetensors")), 1000)),
    **{
        f"{name} of the checkpoint deleted": ("checkpoint", lambda t, _, name=name: Path(t.path(name)).unlink())
        for name in CHECKPOINT_FILES
    },
    "the training record cut short": ("checkpoint", lambda t, _: cut(Path(t.path("training_record.json")), 30)),
    "the training record of another type": (
        "checkpoint",
        lambda t, _: Path(t.path("training_record.json")).write_text("7"),
    ),
    "a copy by label deleted": ("labels_by_label", lambda t, _: name_folder(t, 0).unlink()),
    "a copy by label altered": ("labels_by_label", lambda t, _: flip(name_folder(t, 1), 30)),
    "a copy by label more": (
        "labels_by_label",
        lambda t, _: shutil.copy(name_folder(t, 0), name_folder(t, 0).with_name("part-9.parquet")),
    ),
    "copies by label of other labels": (
        "labels_by_label",
        lambda t, _: edit_manifest(t, belongs_with={"labels": "0" * 12}),
    ),
    "the labels lost a part of which there are copies": ("labels", lambda t, _: part(t, 1).unlink()),
    "the plan deleted": ("plan", lambda t, _: Path(t.path("pilot.json")).unlink()),
    "the plan cut short": ("plan", lambda t, _: cut(Path(t.path("pilot.json")), 30)),
}


@pytest.mark.parametrize("damage", MORE)
def test_damage_beside_the_parts_and_instead_of_them_is_found_and_made_again(run, whole, other, damage):
    table, plant = MORE[damage]
    plant(run.table(table), other.table(table))
    found = list(repair(run, IN_PROCESS))
    assert any(finding.table == table for finding in found), (damage, list(map(str, found)))
    assert verify(run) == []
    assert_equal(run, whole)


def flip_each(table: TableDirectory, word: bytes) -> None:
    """Another character in a value of the manifest that nothing else is compared with."""
    path = Path(table.path(MANIFEST))
    content = path.read_bytes()
    flip(path, content.index(word) + len(word))


def damage_both(*plants: tuple[str, Callable[[TableDirectory], object]]) -> Callable[[Run], None]:
    return lambda run: [plant(run.table(table)) for table, plant in plants]


def swap_files(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def put_states(run: Run, **files: bytes | None) -> None:
    """The checkpoint is lost, and the states that its training would resume from are damaged; None: a folder."""
    silver = run.table("silver").require_manifest()
    gone(run.table("checkpoint"))
    folder = Path(run.table("training").path())
    for name, content in {"answers": silver.upstream.get(RESPONSES_VERSION, "").encode(), **files}.items():
        path = folder / name.replace("_pt", ".pt")
        path.mkdir(parents=True) if content is None else (folder.mkdir(parents=True, exist_ok=True))
        if content is not None:
            path.write_bytes(content)


def remove_all_but_the_report(run: Run) -> None:
    for spec in run.tables:
        if spec.name != "report" and Path(run.table(spec.name).path()).exists():
            gone(run.table(spec.name))


def pipe(table: str, name: Callable[[TableDirectory], Path]) -> Callable[[Run], None]:
    return lambda run: replace(name(run.table(table)), os.mkfifo)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def by_label(run: Run, number: int) -> Path:
    return name_folder(run.table("labels_by_label"), number)


LIST_STATE = io.BytesIO()
torch.save([1], LIST_STATE)
OF_THE_RUN: dict[str, tuple[str, Callable[[Run], object]]] = {
    "a pipe in the place of a part": ("labels", pipe("labels", lambda t: part(t, 1))),
    "a pipe in the place of a manifest": ("labels", pipe("labels", lambda t: Path(t.path(MANIFEST)))),
    "a pipe in the place of the weights": (
        "checkpoint",
        pipe("checkpoint", lambda t: Path(t.path("model.safetensors"))),
    ),
    "a pipe in the place of a table": ("silver", pipe("silver", lambda t: Path(t.path()))),
    "a pipe in the place of a figure": ("report", pipe("report", lambda t: Path(t.path("metrics.json")))),
    "a pipe beside the parts": ("labels", lambda run: os.mkfifo(run.table("labels").path("x"))),
    "a device in the place of a part": ("corpus", lambda run: replace(part(run.table("corpus"), 1), zeros)),
    "a device in the place of the plan": (
        "plan",
        lambda run: replace(Path(run.table("plan").path("pilot.json")), zeros),
    ),
    "a bit of the recipe in a manifest": (
        "labels",
        lambda run: flip_each(run.table("labels"), b'"max_batch_tokens": '),
    ),
    "a bit of a time in a manifest": ("silver", lambda run: flip_each(run.table("silver"), b'"completed_at": "20')),
    "a manifest without its upstream": ("labels", lambda run: edit_manifest(run.table("labels"), upstream={})),
    "a manifest without its companions": ("labels", lambda run: edit_manifest(run.table("labels"), belongs_with={})),
    "the manifests of two tables swapped": (
        "labels",
        lambda run: swap_files(*(Path(run.table(name).path(MANIFEST)) for name in ("labels", "label_rejects"))),
    ),
    "two parts swapped": ("corpus", lambda run: swap_files(*(part(run.table("corpus"), n) for n in (0, 1)))),
    "a part of zeros": ("labels", lambda run: part(run.table("labels"), 1).write_bytes(bytes(1000))),
    "a part twice in one file": (
        "labels",
        lambda run: part(run.table("labels"), 1).write_bytes(part(run.table("labels"), 1).read_bytes() * 2),
    ),
    "two copies by label swapped": ("labels_by_label", lambda run: swap_files(by_label(run, 0), by_label(run, -1))),
    "a folder of a label renamed": (
        "labels_by_label",
        lambda run: by_label(run, 0).parent.rename(by_label(run, 0).parent.with_name("label=x")),
    ),
    "a file in the place of a label's folder": (
        "labels_by_label",
        lambda run: replace(by_label(run, 0).parent, Path.touch),
    ),
    "a file in the place of the plots": (
        "report",
        lambda run: replace(Path(run.table("report").path("plots")), Path.touch),
    ),
    "a file in the place of the plan": ("plan", lambda run: replace(Path(run.table("plan").path()), Path.touch)),
    "a state of the training that is none": ("checkpoint", lambda run: put_states(run, state_pt=b"junk")),
    "a state of the training of another type": (
        "checkpoint",
        lambda run: put_states(run, state_pt=LIST_STATE.getvalue()),
    ),
    "a folder in the place of a state": ("checkpoint", lambda run: put_states(run, state_pt=None)),
    "states of answers that are not UTF-8": ("checkpoint", lambda run: put_states(run, answers=b"\xff\xfe")),
    "a folder in the place of the states' answers": ("checkpoint", lambda run: put_states(run, answers=None)),
    "a file in the place of the states": (
        "checkpoint",
        lambda run: (put_states(run), replace(Path(run.table("training").path()), Path.touch)),
    ),
    "all tables but the report": ("corpus", remove_all_but_the_report),
    "the copies' manifest and a bit of the labels": (
        "labels_by_label",
        damage_both(
            ("labels_by_label", lambda t: cut(Path(t.path(MANIFEST)), 9)), ("labels", lambda t: flip(part(t, 1), 70))
        ),
    ),
    "the silver manifest and a part of the rejects": (
        "rejects",
        damage_both(("silver", lambda t: Path(t.path(MANIFEST)).unlink()), ("rejects", lambda t: part(t, 0).unlink())),
    ),
    "the responses' manifest and a bit beside them": (
        "content_free",
        damage_both(
            ("responses", lambda t: Path(t.path(MANIFEST)).unlink()), ("content_free", lambda t: flip(part(t, 0), 30))
        ),
    ),
    "a part of the answers and the responses' manifest": (
        "answers",
        damage_both(
            ("answers", lambda t: cut(part(t, 1), 90)), ("responses", lambda t: Path(t.path(MANIFEST)).unlink())
        ),
    ),
    "a part of the answers and a part of the sample": (
        "answers",
        damage_both(("answers", lambda t: part(t, 2).unlink()), ("sample", lambda t: flip(part(t, 0), 50))),
    ),
    "a pipe in the place of a part of the answers": ("answers", pipe("answers", lambda t: part(t, 1))),
    "the folder above the checkpoint and a part of the labels": (
        "checkpoint",
        damage_both(
            ("checkpoint", lambda t: replace(Path(t.path()).parent, Path.touch)),
            ("labels", lambda t: part(t, 0).unlink()),
        ),
    ),
}


@pytest.mark.parametrize("damage", OF_THE_RUN)
def test_damage_that_waits_hides_or_comes_in_pairs_is_found_and_made_again(run, whole, damage):
    table, plant = OF_THE_RUN[damage]
    plant(run)
    found = list(repair(run, IN_PROCESS))
    assert any(finding.table == table for finding in found), (damage, list(map(str, found)))
    assert verify(run) == []
    assert_equal(run, whole)


COMMANDS = [["status"], ["run", "--in-process"], ["report"], ["verify"], ["review", "export"]]


@pytest.mark.parametrize("damage", [*list(DAMAGE)[::3], *list(MORE)[::3], *list(OF_THE_RUN)[::3]])
def test_no_command_ends_in_a_traceback_because_of_damage(run, other, damage, tmp_path, monkeypatch):
    table, plant = (DAMAGE | MORE | OF_THE_RUN)[damage]
    if damage in OF_THE_RUN:
        plant(run)
    else:
        plant(run.table(table)) if damage in DAMAGE else plant(run.table(table), other.table(table))
    recipe = f"{run.recipe.storage}/recipe.yaml"
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        num = 1 if command[0] != "review" else 2
        arguments = [*command[:num], recipe, "--set", f"storage={run.recipe.storage}", *command[num:]]
        error = CliRunner().invoke(app, arguments).exception
        assert error is None or isinstance(error, (InputError, SystemExit)), f"{command}: {error!r}"
        assert "\n" not in str(error), f"{command}: {error}"
    with contextlib.suppress(InputError):
        deployment.find_checkpoint(run.recipe.storage, [])
        validate_checkpoint(run.table("checkpoint").uri, False)


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


@pytest.mark.parametrize("is_shared", [False, True])
def test_of_a_damaged_part_of_the_store_the_lost_answers_alone_are_asked_again(run, whole, tmp_path, is_shared):
    if is_shared:
        shutil.move(Path(run.recipe.storage, "answers"), tmp_path / "shared" / "store")
        run = sharing(run, tmp_path / "shared" / "store")
    answers = run.table("answers")
    damaged = part(answers, 1)
    lost = answers.read_part(damaged.name)[schema.KEY].to_pylist()
    before = {path: path.stat().st_mtime_ns for path in Path(answers.path()).glob("*.parquet") if path != damaged}
    checkpoint = Path(run.table("checkpoint").path("model.safetensors")).stat().st_mtime_ns
    cut(damaged, 300)
    list(repair(run, IN_PROCESS))
    assert verify(run) == []
    assert_equal(run, whole)
    new = set(Path(answers.path()).glob("*.parquet")) - before.keys()
    assert sorted(key for path in new for key in answers.read_part(path.name)[schema.KEY].to_pylist()) == sorted(lost)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert Path(run.table("checkpoint").path("model.safetensors")).stat().st_mtime_ns == checkpoint
    [kept] = (Path(answers.path()).parent / "set_aside").rglob(damaged.name)
    assert kept.stat().st_size == 300


def sharing(run: Run, store: Path) -> Run:
    annotator = run.recipe.annotator.model_copy(update={"answer_store": str(store)})
    return Run(run.recipe.model_copy(update={"annotator": annotator}), run.task)


def test_of_two_runs_that_share_a_store_the_second_takes_what_the_repair_of_the_first_asked(run, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.move(Path(run.recipe.storage, "answers"), store)
    shutil.copytree(run.recipe.storage, tmp_path / "other")
    first = sharing(run, store)
    second = Run(first.recipe.model_copy(update={"storage": str(tmp_path / "other")}), run.task)
    part(first.table("answers"), 1).unlink()
    list(repair(first, IN_PROCESS))
    stored = {path: path.stat().st_mtime_ns for path in store.rglob("*.parquet")}
    monkeypatch.setattr("llambert.stages.asking.replica.create_engine", None)
    [finding] = repair(second, IN_PROCESS)
    assert (finding.kind, finding.table) == (FindingKind.OTHER_COMPANION, "answers")
    assert verify(first) == verify(second) == []
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.parquet")} == stored


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
    with pytest.raises(InputError, match="1 findings are left, the first: corpus: the disk loses"):
        list(repair(run))
