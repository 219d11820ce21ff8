"""Final labels by label and their card: always those of the decisions that are complete."""

import shutil
from pathlib import Path

import pyarrow.dataset
import pytest

from llambert import schema
from llambert.integrity.verify import FindingKind, verify
from tests.fixtures.growing_corpora import open_growing
from tests.fixtures.guaranteed_runs import FallibleAnnotator, save_answers, start, write_certified
from tests.fixtures.openai_endpoint import KEY, serve


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified")
    with serve(FallibleAnnotator()) as endpoint:
        write_certified(folder, endpoint.base_url)
        yield folder


@pytest.fixture(autouse=True)
def workplace(tmp_path, finished, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shutil.copytree(finished, tmp_path / "films")
    monkeypatch.chdir(tmp_path / "films")


def published(run) -> list[dict]:
    folder = run.table("decisions_by_label").path("data")
    rows = pyarrow.dataset.dataset(folder, partitioning="hive").to_table().sort_by(schema.RECORD_ID)
    return rows.select(schema.DECISIONS.names).to_pylist()


def decided(run) -> list[dict]:
    return run.table("decisions").read().sort_by(schema.RECORD_ID).to_pylist()


def test_the_final_labels_are_published_and_not_the_classifiers():
    run = open_growing()
    rows = published(run)
    assert rows == decided(run)
    assert any(row["label"] != row["classifier_label"] for row in rows)
    assert not Path("run/labels_by_label").exists()
    assert verify(run) == []


def test_other_decisions_are_published_again_and_the_old_files_go():
    before = set(open_growing().table("decisions_by_label").file_names())
    save_answers(open_growing(), ["a text of no corpus"])  # a store that has grown: the decisions are made again
    run = start()
    shutil.rmtree("run/people")  # no answer of it is about this corpus
    table = run.table("decisions_by_label")
    assert table.require_manifest().belongs_with == {"decisions": run.table("decisions").require_manifest().content}
    assert {name for name in table.file_names() & before if name.endswith(".parquet")} == set()
    assert published(run) == decided(run)
    assert verify(run) == []


def test_a_start_after_a_kill_keeps_what_was_published():
    table = open_growing().table("decisions_by_label")
    first = table.require_manifest()
    Path(table.path("manifest.json")).unlink()
    Path(table.path(first.parts[2].name)).unlink()
    assert start().table("decisions_by_label").require_manifest().parts == first.parts


def test_verify_finds_a_copy_of_other_decisions():
    run = open_growing()
    shutil.copytree(run.table("decisions_by_label").path(), "copy")
    save_answers(run, ["a text of no corpus"])
    run = start()
    shutil.rmtree("run/people")
    shutil.rmtree(run.table("decisions_by_label").path())
    shutil.copytree("copy", run.table("decisions_by_label").path())
    assert (FindingKind.OTHER_COMPANION, "decisions_by_label") in {(one.kind, one.table) for one in verify(run)}


def test_the_card_says_what_is_guaranteed_and_what_the_columns_are():
    run = open_growing()
    card, counts = Path(run.table("decisions").path("README.md")).read_text(), run.table("decisions").require_manifest()
    assert f"{counts.counts['by_annotator']} were decided by the annotator" in card
    assert "of the 300 final labels are those that the annotator gives (agreement with an LLM is not truth)" in card
    for column in run.table("decisions").read().column_names:
        assert f"- `{column}` (" in card
    assert f"| positive | {counts.labels['positive']} |" in card
