"""Every recipe and task that ships loads, and says what the paper's set-up is."""

from pathlib import Path

import pytest

from llambert.engines import check
from llambert.recipe import load_recipe
from llambert.tasks import load_task

RECIPES = Path(__file__).parents[1] / "jobs" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_with_its_task_and_prompt(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    task = load_task(recipe.task)
    check(recipe.annotator, task)
    assert task.prompt(recipe.annotator.prompt).first_shots(recipe.annotator.num_shots) is not None
    assert set(recipe.corpus.gold_labels.values()) <= set(task.category_names)


@pytest.mark.parametrize(
    ("name", "num_gpus"), [("imdb-llama2-7b", 1), ("imdb-llama2-70b", 4), ("umls-regions-llama2-70b", 4)]
)
def test_the_papers_models_get_the_papers_decoding_and_their_gpus_on_one_node(name, num_gpus):
    annotator = load_recipe(RECIPES / f"{name}.yaml").annotator
    assert (annotator.engine, annotator.mode, annotator.dtype) == ("vllm", "generate", "bfloat16")
    decoding = annotator.decoding
    assert (decoding.temperature, decoding.top_k, decoding.top_p, decoding.max_new_tokens) == (1.0, 50, 1.0, 10)
    assert annotator.gpus_per_replica == annotator.tensor_parallel_size == num_gpus
    assert annotator.records_per_part >= 4 * annotator.engine_args["max_num_seqs"]


@pytest.mark.parametrize("task", ["imdb", "umls_regions"])
def test_the_papers_tasks_have_up_to_three_shots(task):
    assert len(load_task(task).prompt("instruct").first_shots(3)) == 3
