"""The recipe's encoder, tried before anything is spent on a run that could not use it."""

from functools import lru_cache

from llambert.recipe import ClassifierRecipe, LabelRecipe
from llambert.run import Run
from llambert.training.encoder import check_encoder


def require_encoder(run: Run) -> None:
    """``InputError`` if the recipe's encoder cannot be trained and label; nothing is looked at once it is trained.

    Needs no Ray. Of one process's stages the first does it.
    """
    if run.table("checkpoint").read_manifest() is None:
        recipe = run.recipe
        _require(recipe.classifier.model_dump_json(), recipe.label.model_dump_json(), tuple(run.task.category_names))


@lru_cache
def _require(classifier: str, label: str, categories: tuple[str, ...]) -> None:
    check_encoder(
        ClassifierRecipe.model_validate_json(classifier), list(categories), LabelRecipe.model_validate_json(label)
    )
