"""The report's pictures as inline SVG: transparent, text and axes in the page's own colour, legible in greyscale."""

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llambert.annotation.calibration import ReliabilityBin
from llambert.evaluation.metrics import CoveragePoint, Estimate
from llambert.markdown import visible_characters
from llambert.planning.costs import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Based on Okabe & Ito's palette for the colour-blind. Both are visible on white and on black, and differ in lightness
# and hatching.
DARK, LIGHT = "#1f83c4", "#e69f00"
# Placeholder of the page's text colour; replaced by ``currentColor`` in the SVG.
_INK = "#010203"
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a category named $x_1$ is shown as it is written
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "hatch.color": _INK,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_MAX_CELLS_WITH_NUMBERS = 10
_MAX_LABEL_CHARS = 18


def confusion(name: str, matrix: NDArray[np.int64], categories: Sequence[str], given_by: str) -> str:
    """Counts of gold (rows) against given (columns) categories, shaded by the share of the row."""
    side = min(8.0, 2.2 + 0.7 * len(categories))
    with _styled_axes(name, side + 0.6, side) as (axes, finish):
        totals = matrix.sum(axis=1, keepdims=True)
        shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
        for (row, column), share in np.ndenumerate(shares):
            axes.fill_between(
                [column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=DARK, alpha=0.08 + 0.55 * share, linewidth=0
            )
            if len(categories) <= _MAX_CELLS_WITH_NUMBERS:
                axes.text(column, row, f"{matrix[row, column]:,}\n{share:.0%}", ha="center", va="center")
        places = range(len(categories))
        shown = axis_labels(categories)
        crowded = max(len(category) for category in shown) * len(shown) > 40
        axes.set_xticks(places, shown, rotation=45 if crowded else 0, ha="right" if crowded else "center")
        axes.set_yticks(places, shown)
        axes.set(xlim=(-0.5, len(categories) - 0.5), ylim=(len(categories) - 0.5, -0.5))
        axes.set(xlabel=f"category given by the {given_by}", ylabel="gold category")
        axes.tick_params(length=0)
        return finish()


def reliability_diagram(name: str, diagrams: dict[str, list[ReliabilityBin]]) -> str:
    """Accuracy against mean confidence per bin, with the diagonal of perfect calibration."""
    markers = [("o", DARK, "-"), ("s", LIGHT, "--")]
    with _styled_axes(name, 4.4, 3.8) as (axes, finish):
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":", label="perfectly calibrated")
        lowest = 1.0
        for (title, bins), (marker, colour, line) in zip(diagrams.items(), markers, strict=False):
            confidence = [one.mean_confidence for one in bins]
            right = [one.accuracy for one in bins]
            axes.plot(confidence, right, color=colour, linestyle=line, linewidth=1.2, marker=marker, label=title)
            lowest = min(lowest, *confidence, *right)
        start = max(0.0, np.floor(lowest * 10) / 10 - 0.02)
        axes.set(xlim=(start, 1.02), ylim=(start, 1.02))
        axes.set(xlabel="stated probability (mean of the bin)", ylabel="share that is right")
        _legend_above(axes)
        return finish()


def score_distribution(name: str, scores: NDArray, right: NDArray[np.bool_] | None) -> str:
    """How sure the classifier is: records per score bin, split into right and wrong if there is gold."""
    with _styled_axes(name, 5.2, 3.2) as (axes, finish):
        edges = np.linspace(np.floor(float(scores.min()) * 20) / 20 if len(scores) else 0.0, 1.0, 21)
        width = np.diff(edges)
        if right is None:
            axes.bar(edges[:-1], np.histogram(scores, edges)[0], width, align="edge", color=DARK, alpha=0.85)
        else:
            hits = np.histogram(scores[right], edges)[0]
            misses = np.histogram(scores[~right], edges)[0]
            axes.bar(edges[:-1], hits, width, align="edge", color=DARK, alpha=0.85, label="right")
            axes.bar(edges[:-1], misses, width, bottom=hits, align="edge", color=LIGHT, hatch="///", label="wrong")
            _legend_above(axes)
        axes.set(xlabel="score: the classifier's probability of its label", ylabel="records")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        return finish()


def stage_times(name: str, seconds: dict[str, float], alternative: tuple[str, float] | None) -> str:
    """Wall time per stage, and that of the alternative."""
    rows = list(seconds.items())
    with _styled_axes(name, 5.6, 0.9 + 0.38 * (len(rows) + 1)) as (axes, finish):
        unit, unit_seconds = _time_unit(max([*seconds.values(), alternative[1] if alternative else 0.0]))
        names, values = [title for title, _ in rows], [value for _, value in rows]
        axes.barh(names, [value / unit_seconds for value in values], color=DARK, alpha=0.85)
        if alternative is not None:
            title, value = alternative
            axes.barh([title], [value / unit_seconds], color=LIGHT, hatch="///", alpha=0.85)
            rows.append(alternative)
        for place, (_, value) in enumerate(rows):
            axes.annotate(
                format_duration(value), (value / unit_seconds, place), (4, 0), textcoords="offset points", va="center"
            )
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.set_xlabel(f"time on the clock ({unit})")
        axes.tick_params(axis="y", length=0)
        return finish()


def accuracy_by_coverage(name: str, points: Sequence[CoveragePoint]) -> str:
    """Accuracy of the most certain records by the share that is kept, with its 95 % interval."""
    with _styled_axes(name, 5.2, 3.2) as (axes, finish):
        kept = [100 * point.coverage for point in points]
        bounds = np.array([point.accuracy.bounds for point in points]) * 100
        axes.fill_between(kept, bounds[:, 0], bounds[:, 1], color=DARK, alpha=0.25, linewidth=0)
        axes.plot(kept, [100 * point.accuracy.value for point in points], color=DARK, marker="o", markersize=4)
        axes.set(xlabel="records kept, most certain first (%)", ylabel="of these right (%)", xlim=(0, 102))
        return finish()


def frontier(
    name: str,
    curves: Mapping[str, Sequence[tuple[int, Estimate]]],
    chosen: tuple[int, float],
    num_records: int,
    target: float,
    axis: str,
) -> str:
    """Shares of all final labels by how many records the oracle decides, with their 95 % intervals.

    ``curves``: what the share is of -> number of decided records and the share; ``chosen``: the marked point;
    ``target``: of the first curve; ``axis``: which records these are.
    """
    styles = [(DARK, "-", "o"), (LIGHT, "--", "s")]
    with _styled_axes(name, 5.8, 3.6) as (axes, finish):
        for (title, points), (colour, line, marker) in zip(curves.items(), styles, strict=False):
            decided = [num for num, _ in points]
            bounds = np.array([share.bounds for _, share in points]) * 100
            axes.fill_between(decided, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.2, linewidth=0)
            values = [100 * share.value for _, share in points]
            axes.plot(
                decided, values, color=colour, linestyle=line, marker=marker, markersize=4, markevery=5, label=title
            )
        axes.axhline(100 * target, color=_INK, linewidth=0.8, linestyle=":", label=f"target {100 * target:g} %")
        num, share = chosen
        axes.plot([num], [100 * share], color=_INK, marker="D", markersize=8, linestyle="none", label="chosen")
        axes.set(xlim=(0, num_records * 1.02), xlabel=f"{axis} (of {num_records:,})")
        axes.set_ylabel("of all final labels (%)")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=9, handlelength=2.5, columnspacing=1)
        return finish()


def standalone(svg: str) -> str:
    """The picture as a separate file, in a grey that is legible on white and on black."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("<svg ", '<svg style="color:#808080" ', 1)


@contextmanager
def _styled_axes(name: str, width: float, height: float) -> Iterator[tuple["Axes", Callable[[], str]]]:
    """Axes in the report's style (inches), and what makes an inline SVG of them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height))
        axes: Axes = figure.subplots()
        yield axes, lambda: _inline(figure, name)


def _inline(figure: "Figure", name: str) -> str:
    """The ``<svg>`` element only: scalable, in ``currentColor``, its ids unique on a page of many."""
    sink = io.StringIO()
    with warnings.catch_warnings():
        # Matplotlib's fonts have no Chinese and no emoji; in the SVG they are text, for which browsers have fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    svg = text[text.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)

    def adapt(tag: re.Match[str]) -> str:
        text = re.sub(r'\bid="', f'id="{name}-', tag.group())
        text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
        return text.replace(_INK, "currentColor")

    return re.sub(r"<[^>]*>", adapt, svg).strip()  # in tags only: a category may have such a name


def _legend_above(axes: "Axes") -> None:
    """A legend that no curve or bar overlaps."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, fontsize=9, handlelength=1.5, columnspacing=1)


def _time_unit(longest_seconds: float) -> tuple[str, float]:
    for unit, seconds in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if longest_seconds >= 2 * seconds:
            return unit, seconds
    return "seconds", 1.0


def axis_labels(names: Sequence[str]) -> list[str]:
    """Names as one line of at most 18 characters each, longer ones cut with an ellipsis; all of them different."""
    shown = [shorten(name) for name in names]
    counts = Counter(shown)
    return [
        text if counts[text] == 1 else shorten(f"{place}: {name}")
        for place, (name, text) in enumerate(zip(names, shown, strict=True), start=1)
    ]


def shorten(text: str, most: int = _MAX_LABEL_CHARS) -> str:
    """A text for a figure: one line, cut with an ellipsis where it is longer than ``most`` characters."""
    text = " ".join(visible_characters(text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
