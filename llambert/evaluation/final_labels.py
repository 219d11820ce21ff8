"""The final labels of a certified run: how many are right by gold, and what other thresholds would have given."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llambert.evaluation.evidence import Records
from llambert.evaluation.final_table import DECIDERS
from llambert.evaluation.frontier import FrontierPoint
from llambert.evaluation.guaranteed import Guaranteed
from llambert.evaluation.metrics import Estimate, accuracy

_NUM_STEPS = 50


@dataclass(frozen=True)
class FinalLabels:
    """Accuracy of the final labels on gold records whose gold label nobody was given; each text counts once."""

    by_decider: dict[str, Estimate]
    """Who decided -> how many of these labels are right. People's are left out: what they say is what is promised."""
    whole: Estimate | None
    """Of all final labels that people have not decided: weighted by how many labels each has decided, since the gold
    records may have another mixture. None if none of a decider's labels can be judged."""
    has_peoples: bool
    """Whether people have decided some labels."""
    frontier: list[FrontierPoint]
    """Empty without a certification sample."""
    chosen: FrontierPoint | None
    """The one of the certificate."""


def assess_final(records: Records, guaranteed: Guaranteed) -> FinalLabels:
    """Of the records' ``final`` labels, and of the certificate that they were decided by."""
    judged, found, weights = records.judges_classifier & ~records.is_given_away, {}, {}
    for code, who in enumerate(DECIDERS[:2]):
        is_by = records.decided_by == code
        if num := int((is_by & records.has_label).sum()):
            weights[who] = num
        if (chosen := is_by & judged).any():
            found[who] = accuracy(records.gold[chosen], records.final[chosen])
    whole = _weighted(found, weights) if weights and weights.keys() <= found.keys() else None
    has_peoples = bool((records.decided_by == DECIDERS.index("person")).any())
    if not guaranteed.certified.num_sampled:
        return FinalLabels(found, whole, has_peoples, [], None)
    is_decided = records.is_trained_on_gold if guaranteed.recipe.oracle == "people" else records.is_seen
    frontier = guaranteed.frontier(np.sort(records.score[records.has_label & ~is_decided]))
    return FinalLabels(found, whole, has_peoples, frontier.points(_NUM_STEPS), guaranteed.chosen(frontier))


def _weighted(shares: Mapping[str, Estimate], weights: Mapping[str, int]) -> Estimate:
    """The mean of independent shares with fixed weights.

    The distances of the bounds are those of each share, squared and added: MOVER (Zou & Donner 2008, Statistics in
    Medicine 27:1693), which is Newcombe's hybrid score method for other linear combinations than the difference.
    """
    total = sum(weights.values())
    parts = [(weight / total, shares[who]) for who, weight in weights.items()]
    value = sum(weight * share.value for weight, share in parts)
    below = np.sqrt(sum((weight * (share.value - share.bounds[0])) ** 2 for weight, share in parts))
    above = np.sqrt(sum((weight * (share.bounds[1] - share.value)) ** 2 for weight, share in parts))
    return Estimate(value, float(value - below), float(value + above), sum(share.num for _, share in parts))
