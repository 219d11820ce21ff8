"""The paper's claims about its tables and figures, tested with the cells: confirmed, contradicted or open.

Each claim is a difference, taken test record by test record and seed by seed, and a value it is compared with. It is
confirmed where the 95 % interval, for other seeds and other test records, lies wholly on the claim's side, contradicted
where it lies on the other, and else open: always of one seed. The records trained on are drawn from one set of labels,
and no interval is for another.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llambert.evaluation.metrics import Estimate
from llambert.experiments import paper
from llambert.experiments.experiment_recipe import AnyTraining, LabelCount, Mislabel, Regimes
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from llambert.experiments.results import Place, Results

CONFIRMED, CONTRADICTED, OPEN = "confirmed", "contradicted", "open"
_RESILIENT_BELOW = 0.25
"""Of the wrong labels' share: a classifier that loses less accuracy than this is called resilient. The paper's
roberta-large loses 0.03 of it at 20 %."""


@dataclass(frozen=True)
class Finding:
    """``text``: what was measured, with its numbers, and what it says of the paper's claim."""

    claim: str
    verdict: str
    text: str


def findings(experiment: AnyTraining, results: Results) -> list[Finding]:
    """The claims that the stored cells can decide."""
    match experiment:
        case Regimes():
            return list(_of_regimes(results))
        case LabelCount():
            return list(_of_label_counts(results))
        case Mislabel():
            return list(_of_mislabelling(results))


def verdict(estimate: Estimate, above: float = 0.0) -> str:
    """Of the claim that what is estimated lies above a value."""
    if estimate.low is None:
        return OPEN
    low, high = estimate.bounds
    return CONFIRMED if low > above else CONTRADICTED if high < above else OPEN


def percentage_points(estimate: Estimate) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    value = f"{100 * estimate.value:+.2f} points"
    if estimate.low is None:
        return f"{value} (one seed)"
    low, high = estimate.bounds
    return f"{value} (95 % interval {100 * low:+.2f} to {100 * high:+.2f}, {estimate.num} seeds)"


def _is_better(
    results: Results, first: Place, second: Place, claim: str, text: str, source: str = ""
) -> Iterator[Finding]:
    """The claim that the first place of a table has the higher accuracy; nothing where no seed has both.

    ``text`` says what the difference is of, ``source`` what the paper measured.
    """
    difference = results.difference(first, second)
    if difference is not None:
        yield Finding(claim, verdict(difference), f"{text} {percentage_points(difference)}{source}")


def _of_regimes(results: Results) -> Iterator[Finding]:
    claims = [
        ("silver", "gold", "many silver labels are better than few gold ones"),
        ("combined", "silver", "gold labels after silver ones are better than silver ones alone"),
        ("combined", "gold", "gold labels after silver ones are better than gold ones alone"),
    ]
    for encoder in results.accuracies:
        for first, second, claim in claims:
            text = f"{encoder}: {first} minus {second}"
            yield from _is_better(results, (encoder, first), (encoder, second), claim, text)


def _of_label_counts(results: Results) -> Iterator[Finding]:
    for labels in ("silver", "gold"):
        counts = sorted(int(count) for count in results.columns(labels))
        if labels == "silver" and len(counts) >= 3:
            yield from _plateau(results, counts)
        if len(counts) >= 2:
            text = f"from {counts[0]:,} to {counts[-1]:,} {labels} labels"
            claim = f"more {labels} labels help"
            yield from _is_better(results, (labels, counts[-1]), (labels, counts[0]), claim, text)
    for count in sorted({*results.columns("silver")} & {*results.columns("gold")}, key=float):
        text = f"at {count:,} labels gold minus silver"
        claim = "as many gold labels are better than silver ones"
        yield from _is_better(results, ("gold", count), ("silver", count), claim, text)


def _plateau(results: Results, counts: list[int]) -> Iterator[Finding]:
    """Whether a doubling of silver labels gains less at the end of the curve than at its beginning."""
    first, last = counts[0], counts[-1]
    # Of the counts between, the one nearest to the middle of the doublings.
    middle = min(counts[1:-1], key=lambda count: abs(np.log2(count / first) - np.log2(last / first) / 2))
    early, late = 1 / np.log2(middle / first), 1 / np.log2(last / middle)
    before = results.contrast({("silver", middle): early, ("silver", first): -early})
    after = results.contrast({("silver", last): late, ("silver", middle): -late})
    # Gain of a doubling before the middle minus that after it.
    fall = results.contrast({("silver", middle): early + late, ("silver", first): -early, ("silver", last): -late})
    if before is None or after is None or fall is None:
        return
    text = (
        f"a doubling of silver labels gains {100 * before.value:+.2f} points between {first:,} and {middle:,} labels, "
        f"and {percentage_points(after)} between {middle:,} and {last:,}; the fall is {percentage_points(fall)}"
    )
    yield Finding("silver labels reach a plateau", verdict(fall), text)


def _of_mislabelling(results: Results) -> Iterator[Finding]:
    for share in sorted(map(float, results.columns(END_TO_END))):
        loss = results.difference((END_TO_END, 0.0), (END_TO_END, share))
        gain = results.difference((END_TO_END, share), (END_TO_END, 0.0))
        if not 0.1 <= share < 0.5 or loss is None or gain is None:
            continue
        lost = f"the classifier loses {percentage_points(loss)}{_paper_loss(share)}"
        claim = f"random errors hardly harm: less than {_RESILIENT_BELOW:g} of their share is lost"
        decided = verdict(gain, above=-share * _RESILIENT_BELOW)
        yield Finding(claim, decided, f"with {share:.1%} of the labels made wrong {lost}")
    for share in map(float, results.columns(ANNOTATOR)):
        text = (
            f"at the annotator's {share:.1%} of errors gold labels with as many random errors, "
            "minus the annotator's labels:"
        )
        claim = "an LLM's errors harm more than random ones"
        yield from _is_better(results, (END_TO_END, share), (ANNOTATOR, share), claim, text, _paper_annotator())
    for share in map(float, results.columns(FROZEN)):
        text = f"with {share:.1%} wrong labels end to end minus frozen encoder"
        claim = "training end to end is better than the head alone"
        yield from _is_better(results, (END_TO_END, share), (FROZEN, share), claim, text)


def _paper_loss(share: float) -> str:
    curve = paper.mislabel_curves()[END_TO_END]
    if share not in curve:
        return ""
    return f"; roberta-large on IMDb lost {100 * (curve[0].value - curve[share].value):.2f} (the paper)"


def _paper_annotator() -> str:
    curves = paper.mislabel_curves()
    [(share, annotated)] = curves[ANNOTATOR].items()
    random, silver = 100 * curves[END_TO_END][0.05].value, 100 * annotated.value
    return (
        f"; the paper's {random:.2f} with 5 % random errors and {silver:.2f} with the LLM's "
        f"{100 * share:g} % differ by {random - silver:+.2f}"
    )
