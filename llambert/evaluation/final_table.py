"""Which table has the labels that users take."""

from typing import Literal

from llambert.run import Run


def final_table(run: Run) -> Literal["decisions", "labels"]:
    """``decisions`` if the recipe has a guarantee and they are complete; ``labels``, the classifier's, otherwise."""
    if run.recipe.guarantee and run.table("decisions").read_manifest():
        return "decisions"
    return "labels"
