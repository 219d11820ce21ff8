"""What the paper says of its tables and figures, held against the cells: confirmed, contradicted or open.

Each claim is a difference, taken seed by seed, and a value it is compared with. It is confirmed where the 95 %
interval over seeds lies wholly on the claim's side, contradicted where it lies on the other, and else open.
"""

from dataclasses import dataclass

import numpy as np

from llambert.evaluation.metrics import Estimate
from llambert.experiments import paper
from llambert.experiments.experiment_recipe import LabelCount, Mislabel, Regimes, Trainings
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from llambert.experiments.results import Results, mean_over_seeds

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


def findings(experiment: Trainings, results: Results) -> list[Finding]:
    """Those that the stored cells allow."""
    match experiment:
        case Regimes():
            return _of_regimes(results)
        case LabelCount():
            return _of_label_counts(results)
        case Mislabel():
            return _of_mislabelling(results)
    raise AssertionError(f"no findings for {type(experiment).__name__}")


def verdict(estimate: Estimate, above: float = 0.0) -> str:
    """Of the claim that what is estimated lies above a value."""
    if estimate.low is None:
        return OPEN
    low, high = estimate.bounds
    return CONFIRMED if low > above else CONTRADICTED if high < above else OPEN


def points(estimate: Estimate) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    value = f"{100 * estimate.value:+.2f} points"
    if estimate.low is None:
        return f"{value} (one seed)"
    low, high = estimate.bounds
    return f"{value} (95 % interval {100 * low:+.2f} to {100 * high:+.2f}, {estimate.num} seeds)"


def _of_regimes(results: Results) -> list[Finding]:
    claims = [
        ("silver", "gold", "many silver labels are better than few gold ones"),
        ("combined", "silver", "gold labels after silver ones are better than silver ones alone"),
        ("combined", "gold", "gold labels after silver ones are better than gold ones alone"),
    ]
    found = []
    for encoder in results.rows():
        for first, second, claim in claims:
            difference = results.difference((encoder, first), (encoder, second))
            if difference is not None:
                text = f"{encoder}: {first} minus {second} {points(difference)}"
                found.append(Finding(claim, verdict(difference), text))
    return found


def _of_label_counts(results: Results) -> list[Finding]:
    found = []
    for labels in ("silver", "gold"):
        counts = sorted(int(count) for count in results.columns(labels))
        if labels == "silver" and len(counts) >= 3:
            found += _plateau(results, counts)
        if len(counts) >= 2:
            gain = results.difference((labels, counts[-1]), (labels, counts[0]))
            if gain is not None:
                text = f"from {counts[0]:,} to {counts[-1]:,} {labels} labels {points(gain)}"
                found.append(Finding(f"more {labels} labels help", verdict(gain), text))
    for count in sorted({*results.columns("silver")} & {*results.columns("gold")}, key=float):
        difference = results.difference(("gold", count), ("silver", count))
        if difference is not None:
            text = f"at {count:,} labels gold minus silver {points(difference)}"
            found.append(Finding("as many gold labels are better than silver ones", verdict(difference), text))
    return found


def _plateau(results: Results, counts: list[int]) -> list[Finding]:
    """Whether a doubling of silver labels gains less at the end of the curve than at its beginning."""
    first, last = counts[0], counts[-1]
    # The count nearest to the middle of the doublings, of those that stand between.
    middle = min(counts[1:-1], key=lambda count: abs(np.log2(count / first) - np.log2(last / first) / 2))
    values = [results.by_seed("silver", count) for count in (first, middle, last)]
    early, late = np.log2(middle / first), np.log2(last / middle)
    seeds = [seed for seed in values[0] if all(seed in one for one in values)]
    if not seeds:
        return []
    before = mean_over_seeds([(values[1][seed] - values[0][seed]) / early for seed in seeds])
    after = mean_over_seeds([(values[2][seed] - values[1][seed]) / late for seed in seeds])
    fall = mean_over_seeds(
        [(values[1][s] - values[0][s]) / early - (values[2][s] - values[1][s]) / late for s in seeds]
    )
    text = (
        f"a doubling of silver labels gains {100 * before.value:+.2f} points between {first:,} and {middle:,} labels, "
        f"and {points(after)} between {middle:,} and {last:,}; the fall is {points(fall)}"
    )
    return [Finding("silver labels reach a plateau", verdict(fall), text)]


def _of_mislabelling(results: Results) -> list[Finding]:
    shares = sorted(float(share) for share in results.columns(END_TO_END))
    found = []
    for share in (share for share in shares if 0.1 <= share < 0.5):
        loss = results.difference((END_TO_END, 0.0), (END_TO_END, share))
        if loss is None:
            continue
        spared = Estimate(
            share * _RESILIENT_BELOW - loss.value,
            None if loss.high is None else share * _RESILIENT_BELOW - loss.high,
            None if loss.low is None else share * _RESILIENT_BELOW - loss.low,
            loss.num,
        )
        text = f"with {share:.1%} of the labels made wrong the classifier loses {points(loss)}{_paper_loss(share)}"
        claim = f"random errors hardly harm: less than {_RESILIENT_BELOW:g} of their share is lost"
        found.append(Finding(claim, verdict(spared), text))
    for own_share in results.columns(ANNOTATOR):
        difference = results.difference((END_TO_END, own_share), (ANNOTATOR, own_share))
        if difference is not None:
            text = (
                f"at the annotator's {float(own_share):.1%} of errors gold labels with as many random errors, "
                f"minus the annotator's labels: {points(difference)}{_paper_annotator()}"
            )
            found.append(Finding("an LLM's errors harm more than random ones", verdict(difference), text))
    for both in (share for share in results.columns(FROZEN) if share in results.columns(END_TO_END)):
        difference = results.difference((END_TO_END, both), (FROZEN, both))
        if difference is not None:
            text = f"with {float(both):.1%} wrong labels end to end minus frozen encoder {points(difference)}"
            found.append(Finding("training end to end is better than the head alone", verdict(difference), text))
    return found


def _paper_loss(share: float) -> str:
    curve = paper.facts()["imdb"]["mislabel"]
    by_share = dict(zip(curve["x"], curve["end_to_end"], strict=True))
    if 100 * share not in by_share:
        return ""
    return f"; roberta-large on IMDb lost {by_share[0] - by_share[100 * share]:.2f} (the paper)"


def _paper_annotator() -> str:
    imdb = paper.facts()["imdb"]
    curve = dict(zip(imdb["mislabel"]["x"], imdb["mislabel"]["end_to_end"], strict=True))
    silver = imdb["encoder_accuracy"]["roberta-large"][1]
    return (
        f"; the paper's {curve[5]:.2f} with 5 % random errors and {silver:.2f} with the LLM's "
        f"{imdb['annotator_error_percent']:g} % differ by {curve[5] - silver:+.2f}"
    )
