"""Splits to annotate and splits to learn from: a contradiction is refused before anything is paid for."""

import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.splits import check_regime_and_splits, is_training_gold
from llambert.errors import InputError
from llambert.recipe import load_recipe
from llambert.run import Run
from llambert.stages.sample import sample
from tests.fixtures.split_corpora import RECIPE, open_films


def require(run: Run) -> None:
    check_regime_and_splits(run.recipe, run.table("corpus"))


@pytest.mark.parametrize(
    ("settings", "splits", "message"),
    [
        (["annotator.splits=[test]"], "test train", "regime silver learns from no record of split test"),
        (["annotator.splits=[extra,test]"], "test extra train", "silver learns from no record of splits extra, te"),
        ([], "extra test", "regime silver learns from no record of splits extra, test, and no other"),
        (["classifier.regime=combined", "annotator.splits=[test]"], "test train", "combined learns from no record of"),
        (["classifier.regime=silver_extra"], "test", "silver_extra learns from no record of split test"),
        (["classifier.regime=silver_extra", "annotator.splits=[train]"], "train extra", "is not in annotator.splits"),
    ],
)
def test_a_regime_that_could_learn_nothing_from_the_annotations_is_refused(tmp_path, settings, splits, message):
    with pytest.raises(InputError, match=message) as refused:
        require(open_films(tmp_path, *settings, splits=splits))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["annotator.splits=[test,train]"],
        ["classifier.regime=gold", "annotator.splits=[test]"],
        ["classifier.regime=combined", "annotator.splits=[train]"],
        ["classifier.regime=silver_extra", "annotator.splits=[extra]"],
    ],
)
def test_a_regime_that_can_learn_from_some_of_them_is_not(tmp_path, settings):
    require(open_films(tmp_path, *settings))


@pytest.mark.parametrize("regime", ["silver", "silver_extra", "combined", "gold"])
def test_every_regime_can_learn_from_a_corpus_without_splits(tmp_path, regime):
    require(open_films(tmp_path, f"classifier.regime={regime}", splits="all", columns="{}"))


def test_gold_labels_of_split_train_alone_are_learned_from():
    corpus = pa.table({schema.SPLIT: ["train", "train", "extra", "test"], schema.GOLD_LABEL: ["x", None, "x", "x"]})
    assert is_training_gold(corpus).to_pylist() == [True, False, False, False]


def test_answers_that_are_there_already_are_no_reason_to_refuse(tmp_path):
    run = open_films(tmp_path, splits="extra test")
    run.table("duplicates").complete("ingest", [])
    with pytest.raises(InputError, match="learns from no record"):
        sample(run)
    run.table("responses").complete("annotate", [])
    assert sample(run).num_kept == 20


@pytest.mark.parametrize(("setting", "message"), [("[train]", "the corpus has no splits"), ("[]", "at least 1")])
def test_splits_of_a_corpus_that_has_none_and_no_splits_at_all_are_refused_with_the_recipe(tmp_path, setting, message):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path, columns="{}"))
    with pytest.raises(InputError, match=f"annotator.splits: .*{message}"):
        load_recipe(tmp_path / "recipe.yaml", [f"annotator.splits={setting}"])
