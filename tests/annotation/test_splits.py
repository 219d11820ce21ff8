"""Splits to annotate and splits to learn from: a contradiction is refused before anything is paid for."""

import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.splits import require_learnable
from llambert.errors import InputError
from llambert.recipe import load_recipe
from llambert.run import Run, open_run
from llambert.storage.run_directory import Manifest

RECIPE = """
name: films
task: reviews
storage: {folder}/run
corpus: {{path: {folder}/films.csv, columns: {columns}}}
annotator: {{model: {folder}/llm, num_records: 20}}
classifier: {{model: {folder}/llm}}
"""


def open_films(folder, *settings: str, splits: str = "test extra train", columns: str = "{split: part}") -> Run:
    """A run whose corpus has 30 records, the first third of the first split and so on."""
    (folder / "films.csv").write_text("text\n")
    (folder / "llm").write_text("weights")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, columns=columns))
    run = open_run(str(folder / "recipe.yaml"), list(settings))
    corpus = run.table("corpus")
    if corpus.read_manifest() is None:
        names = splits.split()
        rows = {
            schema.RECORD_ID: [f"r{n}" for n in range(30)],
            schema.TEXT: [f"film {n}" for n in range(30)],
            schema.SPLIT: [names[n * len(names) // 30] for n in range(30)],
            schema.GOLD_LABEL: pa.nulls(30, pa.string()),
        }
        part = corpus.commit_part("part-0.parquet", pa.table(rows, schema=schema.CORPUS))
        whole = Manifest(stage="ingest", fingerprint="f", num_in=30, num_kept=30, wall_seconds=0.0, parts=[part])
        corpus.write_manifest(whole)
    return run


@pytest.mark.parametrize(
    ("settings", "splits", "message"),
    [
        (["annotator.splits=[test]"], "test train", "regime silver learns from no record of split test"),
        (
            ["annotator.splits=[extra,test]"],
            "test extra train",
            "silver learns from no record of splits extra, te",
        ),
        ([], "extra test", "regime silver learns from no record of splits extra, test, and no other"),
        (["classifier.regime=combined", "annotator.splits=[test]"], "test train", "combined learns from no record of"),
        (["classifier.regime=silver_extra"], "test", "silver_extra learns from no record of split test"),
        (["classifier.regime=silver_extra", "annotator.splits=[train]"], "train extra", "is not in annotator.splits"),
    ],
)
def test_a_regime_that_could_learn_nothing_from_the_annotations_is_refused(tmp_path, settings, splits, message):
    with pytest.raises(InputError, match=message) as refused:
        require_learnable(open_films(tmp_path, *settings, splits=splits))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ([], "{split: part}"),
        (["annotator.splits=[test,train]"], "{split: part}"),
        (["classifier.regime=gold", "annotator.splits=[test]"], "{split: part}"),
        (["classifier.regime=combined", "annotator.splits=[train]"], "{split: part}"),
        (["classifier.regime=silver_extra", "annotator.splits=[extra]"], "{split: part}"),
        ([], "{}"),
    ],
)
def test_a_regime_that_can_learn_from_some_of_them_is_not(tmp_path, settings, columns):
    require_learnable(open_films(tmp_path, *settings, columns=columns))


def test_answers_that_are_there_already_are_no_reason_to_refuse(tmp_path):
    run = open_films(tmp_path, splits="extra test")
    stored = Manifest(stage="annotate", fingerprint="f", num_in=0, num_kept=0, wall_seconds=0.0, parts=[])
    run.table("responses").write_manifest(stored)
    require_learnable(run)


@pytest.mark.parametrize(("setting", "message"), [("[train]", "the corpus has no splits"), ("[]", "at least 1")])
def test_splits_of_a_corpus_that_has_none_and_no_splits_at_all_are_refused_with_the_recipe(tmp_path, setting, message):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path, columns="{}"))
    with pytest.raises(InputError, match=f"annotator.splits: .*{message}"):
        load_recipe(tmp_path / "recipe.yaml", [f"annotator.splits={setting}"])
