"""Labels published by label: the same rows in Hive's layout, whatever was killed, and verified with the run."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pyarrow.compute as pc
import pyarrow.dataset
import pytest

from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.integrity.repair import set_aside
from llambert.integrity.verify import FindingKind, verify
from llambert.stages.by_label import check, publish_by_label
from llambert.stages.label import label
from tests.fixtures.label_runs import fill, make_run
from tests.fixtures.tiny_classifier import save_tiny_classifier, tiny_texts


@pytest.fixture
def run(tmp_path):
    save_tiny_classifier(tmp_path / "encoder", ("positive", "not so/positive"))
    run = make_run(tmp_path, by_label=True, keep=("year",))
    positive, negative = run.task.categories
    categories = (positive, negative.model_copy(update={"name": "not so/positive"}))
    run = replace(run, task=run.task.model_copy(update={"categories": categories}))
    return fill(run, tiny_texts(70), tmp_path / "encoder", gold=True)


def published(run):
    folder = run.table("labels_by_label").path("data")
    return pyarrow.dataset.dataset(folder, partitioning="hive").to_table().sort_by("record_id")


def wrong(run) -> list[str]:
    tables = ("corpus", "labels", "label_rejects", "labels_by_label")
    return [str(finding) for finding in verify(run) if finding.table in tables]


def test_every_label_is_published_once_in_the_folder_of_its_label(run):
    manifest = label(run, IN_PROCESS)
    labels, copy = run.table("labels").read().sort_by("record_id"), published(run)
    assert copy.select(labels.column_names).cast(labels.schema).equals(labels)
    assert set(pc.unique(copy["label"]).to_pylist()) == {"positive", "not so/positive"}
    assert run.table("labels_by_label").require_manifest().num_kept == manifest.num_kept
    assert wrong(run) == []


@pytest.mark.parametrize("name", ["$x_1$", "..", "a\nb", "50% #?[*]", "x" * 200, "é" * 40, "__HIVE_DEFAULT_PARTITION_"])
def test_a_label_of_any_name_has_its_folder(tmp_path, name):
    save_tiny_classifier(tmp_path / "encoder", ("positive", name))
    run = make_run(tmp_path / "a [b]", by_label=True)
    label(fill(run, tiny_texts(30), tmp_path / "encoder"), IN_PROCESS)
    folders = sorted(path.name for path in Path(run.table("labels_by_label").path("data")).iterdir())
    assert {unquote(folder.removeprefix("label=")) for folder in folders} <= {"positive", name}
    assert set(published(run)["label"].to_pylist()) == set(run.table("labels").read()["label"].to_pylist())


def test_a_label_whose_folder_no_filesystem_takes_is_refused_before_anything_is_done(tmp_path):
    run = make_run(tmp_path, by_label=True)
    long = run.task.categories[0].model_copy(update={"name": "é" * 50})
    task = run.task.model_copy(update={"categories": (long, *run.task.categories[1:])})
    with pytest.raises(InputError, match="a folder name of 306 bytes, filesystems take 255"):
        check(replace(run, task=task))
    check(run)


def test_a_complete_run_is_published_when_the_recipe_asks_for_it_later(tmp_path, run):
    plain = replace(make_run(tmp_path, keep=("year",)), task=run.task)
    label(plain, IN_PROCESS)
    assert plain.table("labels_by_label").read_manifest() is None
    made = plain.table("labels").require_manifest()
    assert label(run, IN_PROCESS) == made
    assert len(published(run)) == 70


def test_a_start_after_a_kill_keeps_what_was_published(run):
    label(run, IN_PROCESS)
    table = run.table("labels_by_label")
    first = table.require_manifest()
    table.filesystem.rm(table.path("manifest.json"))
    table.filesystem.rm(table.path(first.parts[2].name))
    label(run, IN_PROCESS)
    assert table.require_manifest().parts == first.parts


def test_a_published_file_that_was_altered_or_lost_or_put_there_is_found_and_mended(run):
    label(run, IN_PROCESS)
    table = run.table("labels_by_label")
    one, two, three, *_ = (part.name for part in table.require_manifest().parts)
    table.filesystem.pipe_file(table.path(one), table.filesystem.cat_file(table.path(two)))
    table.filesystem.rm(table.path(three))
    table.filesystem.makedirs(table.path("data/label=odd"))
    table.filesystem.pipe_file(table.path("data/label=odd/part-9.parquet"), table.filesystem.cat_file(table.path(two)))
    findings = [finding for finding in verify(run) if finding.table == "labels_by_label"]
    found = {(finding.kind, finding.part) for finding in findings}
    assert {
        (FindingKind.ALTERED, one),
        (FindingKind.MISSING_PART, three),
        (FindingKind.UNEXPECTED_PART, "data/label=odd/part-9.parquet"),
    } <= found
    set_aside(run, findings)
    label(run, IN_PROCESS)
    assert wrong(run) == []
    assert len(published(run)) == 70


@pytest.mark.slow
def test_through_ray_the_same_files_are_published(tmp_path, run):
    label(run, IN_PROCESS)
    table = run.table("labels_by_label")
    expected = table.require_manifest()
    table.filesystem.rm(table.path(), recursive=True)
    manifest = publish_by_label(run, "labels_by_label")
    assert manifest.parts == expected.parts
    assert len(published(run)) == manifest.num_kept == 70
