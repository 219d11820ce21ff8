from pathlib import Path

import pytest

from llambert.recipe import load_recipe
from llambert.tasks import load_task
from llambert.training.card import TensorBoardLog, model_card, training_record
from llambert.training.loop import History, Step
from tests.fixtures.card_pages import HOSTILE, rendered
from tests.fixtures.tensorboard_events import scalars

RECIPE = Path(__file__).parents[2] / "jobs" / "recipes" / "reviews.yaml"
COUNTS = {"num_silver_train": 490, "num_silver_held_out": 10, "num_annotated": 512}
COMPUTED_ON = {"chip": "Chip A (AVX512)", "threads per worker": 2}


def figures(phase, epoch, step, **more):
    classes = {"negative": {"precision": 0.81, "recall": 0.72, "num_records": 70}}
    held_out = {"accuracy": 0.8, "macro_f1": 0.79, "loss": 0.4, "classes": classes}
    held_out |= {"calibration_error": 0.05, "calibration_error_if_calibrated": 0.03}
    return {"phase": phase, "epoch": epoch, "step": step, "training_loss": 0.5, **held_out, **more}


@pytest.fixture
def history():
    steps = [Step("silver", n, 1.0 / n, 1e-4, 2.0) for n in (1, 2, 3, 4)] + [Step("gold", 1, 0.2, 1e-6, 1.0)]
    return History(steps, [figures("silver", 1, 2), figures("silver", 2, 4), figures("gold", 1, 1, accuracy=0.9)])


def test_the_card_names_data_annotator_regime_figures_and_limits(history):
    recipe = load_recipe(RECIPE)
    card = model_card(recipe, load_task(recipe.task), history, COUNTS, COMPUTED_ON)
    assert recipe.corpus.path in card
    assert recipe.annotator.model in card
    assert "an LLM's labels (silver)" in card
    assert "num silver train: 490" in card
    assert "| gold | 1 | 0.5000 | 0.9000 | 0.7900 | 0.0500 | 0.0300 | 0.4000 |" in card
    assert "| negative | 0.8100 | 0.7200 | 70 |" in card
    assert "## Limits" in card
    assert "cut at 128 tokens" in card
    assert "asked about 512 records\n" in card  # the recipe asks for 8,000, the corpus had fewer
    assert "8,000" not in card
    assert "Computed on: chip Chip A (AVX512), threads per worker 2. Another kind of chip" in card
    some = load_recipe(RECIPE, ["corpus.columns.split=part", "annotator.splits=[train,extra]"])
    card = model_card(some, load_task(recipe.task), history, COUNTS, COMPUTED_ON)
    assert "asked about 512 records of the splits train, extra\n" in card


@pytest.mark.parametrize(
    ("regime", "against"),
    [
        ("silver", "Against held-out labels of the LLM (silver), not people's"),
        ("gold", "Against held-out labels of people (gold)."),
        ("combined", "Phase silver: against the LLM's own labels."),
    ],
)
def test_the_card_says_whose_labels_the_held_out_figures_are_measured_against(history, regime, against):
    recipe = load_recipe(RECIPE, [f"classifier.regime={regime}"])
    card = model_card(recipe, load_task(recipe.task), history, COUNTS, COMPUTED_ON)
    assert against in card
    assert ("asked about" in card) == (regime != "gold")  # an LLM that was not learned from is no annotator of it
    assert "flatters" not in card
    early = load_recipe(RECIPE, [f"classifier.regime={regime}", "classifier.early_stop_patience=2"])
    assert "which flatters its figures" in model_card(early, load_task(recipe.task), history, COUNTS, COMPUTED_ON)


def test_a_category_of_any_name_stays_one_cell_of_the_card(history):
    recipe = load_recipe(RECIPE)
    for figures_of_epoch in history.epochs:
        figures_of_epoch["classes"] = {"a | b\n$x_1$": figures_of_epoch["classes"]["negative"]}
    card = model_card(recipe, load_task(recipe.task), history, COUNTS, COMPUTED_ON)
    assert r"| a \| b \$x_1\$ | 0.8100 | 0.7200 | 70 |" in card
    assert TensorBoardLog().content(history)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_or_text_of_the_user_changes_the_structure_of_the_card(history, text):
    def card(text):
        recipe, task = load_recipe(RECIPE), load_task(load_recipe(RECIPE).task)
        first, *others = task.categories
        task = task.model_copy(
            update={"question": text, "categories": (first.model_copy(update={"name": text}), *others)}
        )
        annotator = recipe.annotator.model_copy(update={"model": text, "splits": (text, "train")})
        corpus = recipe.corpus.model_copy(update={"path": text})
        classifier = recipe.classifier.model_copy(update={"model": text})
        recipe = recipe.model_copy(
            update={"name": text, "annotator": annotator, "corpus": corpus, "classifier": classifier}
        )
        epochs = [{**one, "classes": {text: one["classes"]["negative"]}} for one in history.epochs]
        return model_card(recipe, task, History(history.steps, epochs), {**COUNTS, text: 3}, {text: text, "chip": text})

    assert rendered(card(text)) == rendered(card("plain"))


def test_the_record_has_every_setting_version_count_step_and_epoch(history):
    recipe = load_recipe(RECIPE)
    record = training_record(recipe, load_task(recipe.task), history, COUNTS, COMPUTED_ON)
    assert record["classifier"] == recipe.classifier.model_dump(mode="json")
    assert set(record["versions"]) == {"llambert", "torch", "transformers", "python"}
    assert record["counts"] == COUNTS
    assert record["computed_on"] == COMPUTED_ON
    assert History.from_dict(record) == history


def test_the_curves_grow_as_training_goes_on_and_hold_every_point_once(history, tmp_path):
    curves = TensorBoardLog()
    so_far = History(history.steps[:2], history.epochs[:1])
    first = curves.content(so_far)
    whole = curves.content(history)
    assert whole.startswith(first)
    assert curves.content(history) == whole
    points = scalars(whole)
    assert points["train/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25), (5, pytest.approx(0.2))]
    assert [step for step, _ in points["held_out/accuracy"]] == [2, 4, 5]
    assert points["held_out/precision/negative"][-1] == (5, pytest.approx(0.81))


def test_the_result_is_the_epoch_marked_so_or_else_the_last(history):
    assert history.result_epoch()["accuracy"] == 0.9
    history.epochs[1]["is_result"], history.epochs[2]["is_result"] = True, False
    assert history.result_epoch()["epoch"] == 2
