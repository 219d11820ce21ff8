"""The paper's own figures (arXiv 2403.15938), in per cent, from ``llambert/experiments/paper.json``."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

_REGIMES = {
    "imdb": {"gold": 0, "silver": 1, "silver_extra": 2, "combined": 3},
    "umls_regions": {"gold": 0, "silver": 1, "combined": 2},
}


@cache
def facts() -> dict[str, Any]:
    """The whole file."""
    return json.loads(files("llambert.experiments").joinpath("paper.json").read_text(encoding="utf-8"))


def encoder_accuracy(task: str, encoder: str, regime: str) -> tuple[float, float | None] | None:
    """Accuracy and the half width of its interval (UMLS alone has one); None where the paper has no such cell."""
    place = _REGIMES[task].get(regime)
    if place is None:
        return None
    found = facts()[task]["encoder_accuracy"][encoder][place]
    return (found[0], found[1]) if isinstance(found, list) else (found, None)


def encoders(task: str) -> list[str]:
    """Those of its table, in its order."""
    return [name for name in facts()[task]["encoder_accuracy"] if name != "columns"]
