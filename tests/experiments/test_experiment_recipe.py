"""Experiments are read closed and typed, whichever of the paper's tables they are."""

from pathlib import Path

import pytest

from llambert.errors import InputError
from llambert.experiments.experiment_recipe import LlmComparison, TrainingExperiment, load_experiment
from llambert.recipe import load_recipe
from tests.fixtures.labelled_films import open_experiment, write_experiment

RECIPES = Path(__file__).parents[2] / "jobs" / "recipes" / "experiments"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_experiment_loads(path):
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    if isinstance(experiment, LlmComparison):
        for llm in experiment.llms.values():
            for shots in llm.shots:
                load_recipe(RECIPES.parents[2] / llm.recipe, [*llm.settings, f"annotator.num_shots={shots}"])


def test_every_table_and_figure_of_the_paper_ships():
    kinds = {load_experiment(path).experiment for path in RECIPES.glob("imdb-*.yaml")}
    assert kinds | {"error_analysis"} == {"llms", "regimes", "label_count", "mislabel", "error_analysis"}


def test_a_small_training_set_is_seen_more_often_but_not_without_end(tmp_path):
    experiment = open_experiment(tmp_path, "regimes", min_steps=50, max_epochs=10)
    assert isinstance(experiment, TrainingExperiment)
    assert [experiment.epochs(num) for num in (8, 100, 1000)] == [10, 4, 2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["experiment=tables"], "experiment: should be one of regimes, label_count"),
        (["regime=gold"], "regime: unknown key; did you mean 'regimes'?"),
        (["data.run=runs/x"], "name either run, or test"),
        (["seeds=[]"], "seeds: "),
        (["data.silver.column=x"], "data.silver.column: unknown key"),
    ],
)
def test_faults_are_said_in_a_line_each(tmp_path, settings, said):
    path = write_experiment(tmp_path, "regimes")
    with pytest.raises(InputError) as refused:
        load_experiment(path, settings)
    assert said in str(refused.value)
