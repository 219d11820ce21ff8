"""The recipe's encoder, tried before anything is spent on a run that could not use it."""

from functools import lru_cache

from llambert.recipe import ClassifierRecipe
from llambert.run import Run
from llambert.training.model import check_encoder


def require_encoder(run: Run) -> None:
    """``InputError`` if the recipe's encoder cannot be trained and label; nothing is looked at once it is trained.

    Needs no Ray. Of one process's stages the first does it.
    """
    if run.table("checkpoint").read_manifest() is None:
        _require(run.recipe.classifier.model_dump_json(), tuple(run.task.category_names))


@lru_cache
def _require(recipe: str, categories: tuple[str, ...]) -> None:
    check_encoder(ClassifierRecipe.model_validate_json(recipe), list(categories))
