"""Every recipe and task that ships loads, and says what the paper's set-up is."""

import re
from pathlib import Path

import pytest

from llambert.annotation.splits import unused_splits
from llambert.engines import check
from llambert.experiments.experiment_recipe import load_experiment
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
    ("name", "num_gpus"),
    [("imdb-llama2-7b", 1), ("imdb-llama2-70b", 4), ("umls-regions-llama2-70b", 4), ("umls-functions-llama2-70b", 4)],
)
def test_the_papers_models_get_the_papers_decoding_and_their_gpus_on_one_node(name, num_gpus):
    annotator = load_recipe(RECIPES / f"{name}.yaml").annotator
    assert (annotator.engine, annotator.mode, annotator.dtype) == ("vllm", "generate", "bfloat16")
    decoding = annotator.decoding
    assert (decoding.temperature, decoding.top_k, decoding.top_p, decoding.max_new_tokens) == (1.0, 50, 1.0, 10)
    assert annotator.gpus_per_replica == annotator.tensor_parallel_size == num_gpus
    assert annotator.records_per_part >= 4 * annotator.engine_args["max_num_seqs"]


TABLE_1 = {"imdb-llama2-7b": (0, 1, 3), "imdb-llama2-70b": (0, 1), "imdb-gpt4": (0,)}
ENCODERS = [
    "distilbert/distilbert-base-uncased",
    "google-bert/bert-base-uncased",
    "google-bert/bert-large-uncased",
    "FacebookAI/roberta-base",
    "FacebookAI/roberta-large",
]
REGIMES = ["gold", "silver", "silver_extra", "combined"]


@pytest.mark.parametrize(("name", "num_shots"), [(name, shots) for name, all_ in TABLE_1.items() for shots in all_])
def test_every_llm_setting_of_table_1_is_a_recipe_and_a_set(name, num_shots):
    recipe = load_recipe(RECIPES / f"{name}.yaml", [f"annotator.num_shots={num_shots}", "annotator.num_records=100000"])
    task = load_task(recipe.task)
    check(recipe.annotator, task)
    assert len(task.prompt(recipe.annotator.prompt).first_shots(recipe.annotator.num_shots)) == num_shots


@pytest.mark.parametrize("name", TABLE_1)
@pytest.mark.parametrize("model", ENCODERS)
@pytest.mark.parametrize("regime", REGIMES)
def test_every_cell_of_table_2_is_a_recipe_and_two_sets_named_in_its_comment(name, model, regime):
    path = RECIPES / f"{name}.yaml"
    classifier = load_recipe(path, [f"classifier.regime={regime}", f"classifier.model={model}"]).classifier
    assert (classifier.epochs, classifier.batch_size, classifier.max_length) == (5, 16, 512)
    comment = path.read_text().partition("\nname:")[0]
    assert regime in comment
    assert model.rpartition("/")[2] in comment


WITH_SPLITS = [*TABLE_1, "umls-regions-llama2-70b", "umls-functions-llama2-70b"]


@pytest.mark.parametrize("name", WITH_SPLITS)
def test_everything_that_a_recipe_annotates_is_learned_from(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert recipe.annotator.splits
    assert not set(recipe.annotator.splits) & set(unused_splits(recipe.classifier.regime))
    assert "train" in recipe.annotator.splits


@pytest.mark.parametrize("name", TABLE_1)
def test_tables_1_and_2_can_be_made_of_one_set_of_answers(name):
    comment = (RECIPES / f"{name}.yaml").read_text().partition("\nname:")[0]
    (line,) = re.findall(r"^#   --set '(\S+)' --set (\S+)$", comment, re.MULTILINE)
    recipe = load_recipe(RECIPES / f"{name}.yaml", list(line))
    assert set(recipe.annotator.splits) == {"train", "extra", "test"}
    assert recipe.annotator.num_records == 25_000 + 25_000 + 50_000


@pytest.mark.parametrize(("name", "splits"), [("imdb-llms", ["test"]), ("reviews-llms", None)])
def test_table_1_is_of_the_test_reviews(name, splits):
    experiment = load_experiment(RECIPES / "experiments" / f"{name}.yaml")
    for llm in experiment.llms.values():
        recipe = load_recipe(RECIPES.parents[1] / llm.recipe, [*experiment.settings, *llm.settings])
        assert recipe.annotator.splits == (splits and tuple(splits))
        assert recipe.corpus.only == {}


@pytest.mark.parametrize("name", TABLE_1)
def test_imdb_is_read_as_it_is_distributed_with_its_splits(name):
    corpus = load_recipe(RECIPES / f"{name}.yaml").corpus
    assert (corpus.format, corpus.columns.split, corpus.columns.gold_label) == ("imdb", "split", "label")
    assert corpus.gold_labels == {"pos": "positive", "neg": "negative"}


@pytest.mark.parametrize("task", ["imdb", "umls_regions", "umls_functions"])
def test_the_papers_tasks_have_up_to_three_shots(task):
    assert len(load_task(task).prompt("instruct").first_shots(3)) == 3


def _encoders_of_the_readme() -> list[tuple[str, str, str]]:
    readme = (RECIPES.parents[1] / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| (\S+) \| `(\S+/\S+)` \| (?:`(\S+)`)? ?\|$", readme, re.MULTILINE)


def test_the_readme_names_the_papers_encoders_with_settings_that_parse():
    encoders = _encoders_of_the_readme()
    assert {name for name, _, _ in encoders} == {
        *("distilbert-base", "bert-base", "bert-large", "roberta-base", "roberta-large", "BiomedBERT-large")
    }
    for _, model, setting in encoders:
        settings = [f"classifier.model={model}", *([setting] if setting else [])]
        recipe = load_recipe(RECIPES / "imdb-llama2-70b.yaml", settings).classifier
        assert recipe.model == model
        assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.max_length) == (5, 16, 0.01, 512)


@pytest.mark.parametrize(
    ("question", "semantic_types"),
    [
        ("regions", "T017 T021 T022 T023 T024 T025 T026 T029 T030 T031 T125 T192"),
        ("functions", "T053 T070 T055 T054 T041 T038 T039 T020 T042 T040 T190 T048 T019 T184 T046 T191 T047"),
    ],
)
def test_the_papers_concepts_are_of_the_papers_semantic_types(question, semantic_types):
    recipe = load_recipe(RECIPES / f"umls-{question}-llama2-70b.yaml")
    assert recipe.task == f"umls_{question}"
    rules = recipe.corpus.umls
    assert set(rules.semantic_types) == set(semantic_types.split())
    assert (rules.languages, rules.relations, rules.suppressed) == (("ENG",), ("CHD",), ())
    assert len(rules.excluded_term_types) == 27


def test_the_certified_demo_is_the_demo_with_fewer_annotations_and_a_guarantee():
    demo, certified = (load_recipe(RECIPES / f"{name}.yaml") for name in ("reviews", "reviews-certified"))
    assert certified.guarantee is not None
    assert demo.guarantee is None
    fewer = {"annotator": ("num_records",), "classifier": ("epochs",)}
    for name, fields in fewer.items():
        changed = {field: getattr(getattr(demo, name), field) for field in fields}
        assert getattr(certified, name).model_copy(update=changed) == getattr(demo, name)
        assert all(getattr(getattr(certified, name), field) < value for field, value in changed.items())
    assert (certified.corpus, certified.parse, certified.label) == (demo.corpus, demo.parse, demo.label)
