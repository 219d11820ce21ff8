"""Figure 1 of the paper, left and right, beside the paper's own curves: PNG and SVG, legible in greyscale."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llambert.evaluation.metrics import Estimate
from llambert.experiments import paper
from llambert.experiments.experiment_recipe import LabelCount, Mislabel, TrainingExperiment
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from llambert.experiments.results import Column, Results
from llambert.report.plots import DARK, LIGHT, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, Mapping[Column, Estimate]]

_STYLE: dict[str, Any] = {
    "font.size": 10,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


# Curve -> marker, line, colour, filled; any one of them distinguishes the curves.
_MARKS: dict[str, tuple[str, str, str, bool]] = {
    "gold": ("o", "-", DARK, True),
    "silver": ("s", "--", LIGHT, True),
    END_TO_END: ("o", "-", DARK, True),
    FROZEN: ("^", ":", LIGHT, False),
    ANNOTATOR: ("X", "", "black", True),
}


def figure(experiment: TrainingExperiment, results: Results) -> dict[str, bytes]:
    """``png`` and ``svg`` of an experiment that is a figure of the paper; empty for one that is a table."""
    if not isinstance(experiment, LabelCount | Mislabel) or not results.found:
        return {}
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    theirs = paper.curves(experiment)
    style: Any = {**_STYLE, "svg.hashsalt": experiment.name}
    with matplotlib.rc_context(style):
        drawing = Figure(figsize=(9.6, 4.0) if theirs else (5.2, 4.0))
        panels = drawing.subplots(1, 2 if theirs else 1, squeeze=False)[0]
        num_seeds = len({entry.seed for entry, _ in results.found})
        ours = experiment.classifier.model.rstrip("/").rpartition("/")[0].rpartition(":")[2] or experiment.name
        seeds = f"{num_seeds} seed{'s' if num_seeds != 1 else ''}"
        title = f"{shorten(experiment.name, 30)} ({shorten(ours, 30)}; {seeds})"
        _panel(panels[0], experiment, results.curves(), title)
        if theirs:
            _panel(panels[1], experiment, theirs, "the paper: IMDb, roberta-large (5 seeds)")
        return {kind: _rendered(drawing, kind) for kind in ("png", "svg")}


def _panel(axes: "Axes", experiment: LabelCount | Mislabel, curves: Curves, title: str) -> None:
    """Accuracy in per cent by number of labels, or by per cent of wrong labels."""
    scale = 1 if isinstance(experiment, LabelCount) else 100
    for name, curve in curves.items():
        marker, line, colour, filled = _MARKS[name]
        columns = sorted(curve, key=float)
        x, estimates = [scale * float(column) for column in columns], [curve[column] for column in columns]
        values = [100 * one.value for one in estimates]
        style: dict[str, Any] = {
            "marker": marker,
            "linestyle": line,
            "color": colour,
            "markersize": 9 if line == "" else 6,
            "markerfacecolor": colour if filled else "white",
        }
        if any(one.low is not None for one in estimates):
            gaps = [_half_widths(one) for one in estimates]
            axes.errorbar(x, values, yerr=np.transpose(gaps), capsize=3, label=name, **style)
        else:
            axes.plot(x, values, label=name, **style)
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("accuracy on gold test records (%)")
    if isinstance(experiment, LabelCount):
        axes.set_xscale("log", base=2)
        ticks = sorted({float(x) for curve in curves.values() for x in curve})
        axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks], rotation=45, ha="right")
        axes.minorticks_off()
        axes.set_xlabel("training labels (number, log scale)")
    else:
        axes.set_xlabel("labels made wrong on purpose (% of the training labels)")
        for share in curves.get(ANNOTATOR, ()):
            text = f"annotator's own errors: {100 * float(share):.3g} %"
            axes.axvline(100 * float(share), color="grey", linewidth=1, linestyle="-.", label=text)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.legend(fontsize=8.5, loc="best")


def _half_widths(accuracy: Estimate) -> tuple[float, float]:
    """The interval below and above a value in per cent, at most to 100; without an interval, nothing."""
    if accuracy.low is None:
        return 0.0, 0.0
    low, high = accuracy.bounds
    return 100 * (accuracy.value - low), max(0.0, 100 * (min(1.0, high) - accuracy.value))


def _rendered(drawing: "Figure", kind: str) -> bytes:
    sink = io.BytesIO()
    drawing.savefig(sink, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return sink.getvalue()
