"""Figure 1 of the paper, left and right, beside the paper's own curves: PNG and SVG, legible in greyscale."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llambert.experiments import paper
from llambert.experiments.experiment_recipe import LabelCount, Mislabel, Trainings
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from llambert.experiments.results import Results
from llambert.report.plots import DARK, LIGHT, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE: dict[str, Any] = {
    "font.size": 10,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Curve:
    """Accuracy in per cent at each ``x``, with the half widths of its 95 % intervals where there are any."""

    name: str
    x: Sequence[float]
    accuracy: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


# Curve -> marker, line, colour, filled: each tells the curves apart alone.
_MARKS: dict[str, tuple[str, str, str, bool]] = {
    "gold": ("o", "-", DARK, True),
    "silver": ("s", "--", LIGHT, True),
    END_TO_END: ("o", "-", DARK, True),
    FROZEN: ("^", ":", LIGHT, False),
    ANNOTATOR: ("X", "", "black", True),
}


def figure(experiment: Trainings, results: Results) -> dict[str, bytes]:
    """``png`` and ``svg`` of an experiment that is a figure of the paper; empty for one that is a table."""
    if not isinstance(experiment, LabelCount | Mislabel) or not results.found:
        return {}
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    curves = [curve(results, row, percent=isinstance(experiment, Mislabel)) for row in results.rows()]
    theirs = _paper_curves(experiment)
    style: Any = {**_STYLE, "svg.hashsalt": experiment.name}
    with matplotlib.rc_context(style):
        drawing = Figure(figsize=(9.6, 4.0) if theirs else (5.2, 4.0))
        panels = drawing.subplots(1, 2 if theirs else 1, squeeze=False)[0]
        own_share = next(iter(results.columns(ANNOTATOR)), None)
        num_seeds = len({place.seed for place, _ in results.found})
        ours = f"{experiment.classifier.model.rstrip('/').rpartition('/')[0].rpartition(':')[2] or experiment.name}"
        seeds = f"{num_seeds} seed{'s' if num_seeds != 1 else ''}"
        title = f"{shorten(experiment.name, 30)} ({shorten(ours, 30)}; {seeds})"
        _panel(panels[0], experiment, curves, title, None if own_share is None else 100 * float(own_share))
        if theirs:
            _panel(panels[1], experiment, theirs, "the paper: IMDb, roberta-large (5 seeds)", _paper_error_share())
        return {kind: _rendered(drawing, kind) for kind in ("png", "svg")}


def curve(results: Results, row: str, percent: bool) -> Curve:
    """A row of the results as a curve; shares as per cent."""
    columns = sorted(results.columns(row), key=float)
    estimates = [estimate for column in columns if (estimate := results.mean(row, column)) is not None]
    low = [100 * (one.value if one.low is None else one.low) for one in estimates]
    high = [100 * min(1.0, one.value if one.high is None else one.high) for one in estimates]
    x = [float(column) * (100 if percent else 1) for column in columns]
    return Curve(row, x, [100 * one.value for one in estimates], low, high)


def _panel(
    axes: "Axes", experiment: Trainings, curves: Sequence[Curve], title: str, annotator_error: float | None
) -> None:
    for one in curves:
        marker, line, colour, filled = _MARKS[one.name]
        style: dict[str, Any] = {
            "marker": marker,
            "linestyle": line,
            "color": colour,
            "markersize": 9 if line == "" else 6,
        }
        style["markerfacecolor"] = colour if filled else "white"
        if one.low is not None and one.high is not None:
            gaps = np.clip([np.subtract(one.accuracy, one.low), np.subtract(one.high, one.accuracy)], 0, None)
            axes.errorbar(one.x, one.accuracy, yerr=gaps, capsize=3, label=one.name, **style)
        else:
            axes.plot(one.x, one.accuracy, label=one.name, **style)
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("accuracy on gold test records (%)")
    if isinstance(experiment, LabelCount):
        axes.set_xscale("log", base=2)
        ticks = sorted({x for one in curves for x in one.x})
        axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks], rotation=45, ha="right")
        axes.minorticks_off()
        axes.set_xlabel("training labels (number, log scale)")
    else:
        axes.set_xlabel("labels made wrong on purpose (% of the training labels)")
        if annotator_error is not None:
            text = f"annotator's own errors: {annotator_error:.3g} %"
            axes.axvline(annotator_error, color="grey", linewidth=1, linestyle="-.", label=text)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.legend(fontsize=8.5, loc="best")


def _paper_curves(experiment: Trainings) -> list[Curve]:
    if experiment.paper is None:
        return []
    imdb = paper.facts()["imdb"]
    if isinstance(experiment, LabelCount):
        sizes = imdb["data_size"]
        return [
            Curve(
                name,
                sizes["x"],
                sizes[name],
                np.subtract(sizes[name], sizes[f"{name}_ci"]).tolist(),
                np.add(sizes[name], sizes[f"{name}_ci"]).tolist(),
            )
            for name in ("silver", "gold")
        ]
    wrong = imdb["mislabel"]
    share = _paper_error_share()
    return [
        Curve(END_TO_END, wrong["x"], wrong["end_to_end"]),
        Curve(ANNOTATOR, [share], [imdb["encoder_accuracy"]["roberta-large"][1]]),
        Curve(FROZEN, wrong["x"], wrong["frozen_encoder"]),
    ]


def _paper_error_share() -> float:
    """Per cent of the labels of Llama-2-70b-chat that are wrong, as the paper marks it."""
    return paper.facts()["imdb"]["annotator_error_percent"]


def _rendered(drawing: "Figure", kind: str) -> bytes:
    sink = io.BytesIO()
    drawing.savefig(sink, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return sink.getvalue()
