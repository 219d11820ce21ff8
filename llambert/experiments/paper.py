"""The paper's own figures (arXiv 2403.15938), in per cent, from ``llambert/experiments/paper.json``."""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from llambert.evaluation.metrics import Estimate
from llambert.experiments.experiment_recipe import LabelCount, Mislabel, TrainingExperiment
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from llambert.experiments.results import Column

_REGIMES = {"imdb": ("gold", "silver", "silver_extra", "combined"), "umls_regions": ("gold", "silver", "combined")}


@cache
def facts() -> dict[str, Any]:
    """The whole file."""
    return json.loads(files("llambert.experiments").joinpath("paper.json").read_text(encoding="utf-8"))


def encoder_accuracies(task: str) -> dict[str, dict[Column, Estimate]]:
    """Encoder -> regime -> accuracy, in the order of the paper's table; only UMLS has intervals."""
    return {
        encoder: {
            regime: _estimate(*found) if isinstance(found, list) else _estimate(found)
            for regime, found in zip(_REGIMES[task], row, strict=True)
        }
        for encoder, row in facts()[task]["encoder_accuracy"].items()
        if encoder != "columns"
    }


def curves(experiment: TrainingExperiment) -> dict[str, dict[Column, Estimate]]:
    """The curves of Figure 1 for an experiment of the same kind; empty if it names no paper or is not a figure."""
    if experiment.paper is None or not isinstance(experiment, LabelCount | Mislabel):
        return {}
    return mislabel_curves() if isinstance(experiment, Mislabel) else _label_count_curves()


def mislabel_curves() -> dict[str, dict[Column, Estimate]]:
    """Figure 1, right (IMDb, roberta-large): share of wrong labels -> accuracy, by curve."""
    imdb = facts()["imdb"]
    wrong = imdb["mislabel"]
    shares = [percent / 100 for percent in wrong["x"]]
    silver = _estimate(imdb["encoder_accuracy"]["roberta-large"][1])
    return {
        END_TO_END: _curve(shares, wrong["end_to_end"]),
        ANNOTATOR: {imdb["annotator_error_percent"] / 100: silver},
        FROZEN: _curve(shares, wrong["frozen_encoder"]),
    }


def _label_count_curves() -> dict[str, dict[Column, Estimate]]:
    """Figure 1, left (IMDb, roberta-large): number of training labels -> accuracy, by kind of label."""
    sizes = facts()["imdb"]["data_size"]
    return {name: _curve(sizes["x"], sizes[name], sizes[f"{name}_ci"]) for name in ("silver", "gold")}


def _curve(x: Sequence[float], *columns: Sequence[float]) -> dict[Column, Estimate]:
    return {place: _estimate(*values) for place, *values in zip(x, *columns, strict=True)}


def _estimate(percent: float, half_width: float | None = None) -> Estimate:
    if half_width is None:
        return Estimate(percent / 100)
    return Estimate(percent / 100, (percent - half_width) / 100, (percent + half_width) / 100)
