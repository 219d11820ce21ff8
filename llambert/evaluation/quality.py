"""A run's quality figures, computed from its evidence.

A figure that needs gold is None without it. Accuracies count each text once: records with the text of an earlier
record are left out. Shares are of the whole corpus, duplicates included. Gold labels that the classifier was trained
on (regimes ``gold`` and ``combined``), and those of records with the same text, are used in ``whole`` only.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, ks_2samp

from llambert.annotation.calibration import ReliabilityBin, expected_calibration_error, reliability_bins
from llambert.evaluation.evidence import Evidence, Records
from llambert.evaluation.metrics import (
    ClassFigures,
    CoveragePoint,
    Estimate,
    accuracy,
    class_figures,
    confusion,
    corrected_share,
    independent_difference,
    paired_difference,
    risk_coverage,
    threshold_for_accuracy,
)

_COVERAGES = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
_WANTED_ACCURACIES = (0.8, 0.85, 0.9, 0.95, 0.99)
# Below this many gold records the shares cannot be corrected: the variance has no degrees of freedom.
_MIN_FOR_SHARES = 10


@dataclass(frozen=True)
class Evaluation:
    """Labels compared with gold on one set of records."""

    accuracy: Estimate
    matrix: NDArray[np.int64]
    """Counts of shape (gold category, given category)."""
    classes: list[ClassFigures]
    reliability: list[ReliabilityBin] | None
    """None if the labels have no probabilities."""

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error of the stated probabilities."""
        return None if self.reliability is None else expected_calibration_error(self.reliability)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the categories that occur in gold or in the labels."""
        present = np.flatnonzero(self.matrix.sum(axis=0) + self.matrix.sum(axis=1))
        return float(np.mean([self.classes[code].f1 for code in present]))


@dataclass(frozen=True)
class CategoryShare:
    """The share of the corpus that one category has: as labelled, and corrected by gold if there is any."""

    category: str
    num_labelled: int
    raw: float
    corrected: Estimate | None
    silver: float | None
    """Its share of the silver labels."""


@dataclass(frozen=True)
class PriorCorrection:
    """Silver accuracy before and after prior correction, on the same records."""

    raw: Estimate
    corrected: Estimate
    gain: Estimate
    num_changed: int
    """Silver labels that the correction changed, with or without gold."""


@dataclass(frozen=True)
class Drift:
    """The annotated subset beside the splits it was drawn from: a random subset differs by chance only."""

    label_shares: dict[str, tuple[Estimate, float]]
    """Category -> (share among annotated records with its interval, share of all), by the classifier's label."""
    p_values: dict[str, float]
    """``labels``, ``scores``, ``text lengths`` -> how often chance alone makes a random subset differ from the other
    records at least as much: chi-squared of the labels, Kolmogorov-Smirnov of the others."""
    mean_score: tuple[float, float]
    median_chars: tuple[float, float]
    mean_chars: tuple[float, float]


@dataclass(frozen=True)
class Quality:
    """Every quality figure of a run."""

    num_gold: int
    num_unseen: int
    """Distinct labelled records with gold that neither the annotator nor the classifier's training saw."""
    silver: Evaluation | None
    unseen: Evaluation | None
    whole: Evaluation | None
    by_split: dict[str, Estimate]
    """Split -> accuracy on never-annotated records, if the corpus has more than one split."""
    silver_by_split: dict[str, Estimate]
    """Split -> accuracy of the silver labels, if the corpus has more than one split."""
    difference: Estimate | None
    """Classifier (never-annotated records) minus silver labels (annotated records)."""
    prior: PriorCorrection | None
    shares: list[CategoryShare]
    shares_need: str | None
    """What is missing for corrected shares; None if they are corrected."""
    coverage: list[CoveragePoint]
    thresholds: dict[float, CoveragePoint | None]
    agreement: Estimate | None
    """Share of the silver records to which the classifier gives the silver label; needs no gold."""
    rejected: dict[str, tuple[int, dict[str, float]]]
    """Reject reason -> number of records, and the classifier's label shares among them."""
    drift: Drift


def assess(evidence: Evidence) -> Quality:
    """All quality figures of a run."""
    records = evidence.records
    unseen = records.is_unseen
    silver = _evaluate_silver(evidence)
    unseen_evaluation = _evaluate_classifier(evidence, unseen)
    shares, shares_need = _shares(evidence)
    right = records.label[unseen] == records.gold[unseen]
    score = records.score[unseen].astype(np.float64)
    wanted_accuracies = _WANTED_ACCURACIES if len(score) else ()
    difference = None
    if unseen_evaluation and silver:
        difference = independent_difference(unseen_evaluation.accuracy, silver.accuracy)
    return Quality(
        num_gold=records.num_gold,
        num_unseen=int(unseen.sum()),
        silver=silver,
        unseen=unseen_evaluation,
        whole=_evaluate_classifier(evidence, records.is_evaluated),
        by_split=_by_split(evidence, np.flatnonzero(unseen), records.label[unseen]),
        silver_by_split=_by_split(evidence, evidence.silver.row, evidence.silver.label),
        difference=difference,
        prior=_prior_correction(evidence),
        shares=shares,
        shares_need=shares_need,
        coverage=risk_coverage(score, right, _COVERAGES) if len(score) else [],
        thresholds={wanted: threshold_for_accuracy(score, right, wanted) for wanted in wanted_accuracies},
        agreement=_agreement(evidence),
        rejected=_rejected(evidence),
        drift=_drift(evidence),
    )


def _evaluate_silver(evidence: Evidence) -> Evaluation | None:
    silver = evidence.silver
    chosen = evidence.records.has_gold[silver.row]
    confidence = None if silver.confidence is None else silver.confidence[chosen]
    return _evaluate(evidence, silver.row[chosen], silver.label[chosen], confidence)


def _evaluate_classifier(evidence: Evidence, chosen: NDArray[np.bool_]) -> Evaluation | None:
    records = evidence.records
    return _evaluate(evidence, np.flatnonzero(chosen), records.label[chosen], records.score[chosen].astype(np.float64))


def _evaluate(evidence: Evidence, rows: NDArray, given: NDArray, confidence: NDArray | None) -> Evaluation | None:
    """The labels given to these records, which have gold, against it; None without records."""
    if not len(rows):
        return None
    gold = evidence.records.gold[rows]
    matrix = confusion(gold, given, len(evidence.categories))
    return Evaluation(
        accuracy=accuracy(gold, given),
        matrix=matrix,
        classes=class_figures(matrix, evidence.categories),
        reliability=None if confidence is None else reliability_bins(confidence, gold == given),
    )


def _by_split(evidence: Evidence, rows: NDArray[np.int64], labels: NDArray[np.int16]) -> dict[str, Estimate]:
    """Accuracy by split of the labels given to these records; those without gold are left out."""
    records = evidence.records
    if len(records.splits) < 2:
        return {}
    found = {}
    for code, name in enumerate(records.splits):
        chosen = records.has_gold[rows] & (records.split[rows] == code)
        if chosen.any():
            found[name] = accuracy(records.gold[rows[chosen]], labels[chosen])
    return found


def _prior_correction(evidence: Evidence) -> PriorCorrection | None:
    records, silver = evidence.records, evidence.silver
    with_gold = records.has_gold[silver.row]
    if silver.raw_label is None or not with_gold.any():
        return None
    gold = records.gold[silver.row][with_gold]
    raw, corrected = silver.raw_label[with_gold], silver.label[with_gold]
    return PriorCorrection(
        raw=accuracy(gold, raw),
        corrected=accuracy(gold, corrected),
        gain=paired_difference(corrected == gold, raw == gold),
        num_changed=int((silver.raw_label != silver.label).sum()),
    )


def _shares(evidence: Evidence) -> tuple[list[CategoryShare], str | None]:
    """Shares of the labelled records, corrected if there is enough gold."""
    records, num_categories = evidence.records, len(evidence.categories)
    num_labelled = int(records.has_label.sum())
    counts = np.bincount(records.label[records.has_label], minlength=num_categories)
    with_gold = records.has_gold & records.has_label & ~records.is_trained_on_gold
    gold, given = records.gold[with_gold], records.label[with_gold]
    enough = len(gold) >= _MIN_FOR_SHARES
    num_silver = len(evidence.silver.label)
    silver = np.bincount(evidence.silver.label, minlength=num_categories)
    found = []
    for code, category in enumerate(evidence.categories):
        raw = counts[code] / num_labelled if num_labelled else 0.0
        found.append(
            CategoryShare(
                category=category,
                num_labelled=int(counts[code]),
                raw=float(raw),
                corrected=corrected_share(gold == code, given == code, raw, num_labelled) if enough else None,
                silver=float(silver[code] / num_silver) if num_silver else None,
            )
        )
    return found, None if enough else f"gold labels on at least {_MIN_FOR_SHARES} records drawn at random"


def _agreement(evidence: Evidence) -> Estimate | None:
    records, silver = evidence.records, evidence.silver
    labelled = records.has_label[silver.row]
    if not labelled.any():
        return None
    return accuracy(silver.label[labelled], records.label[silver.row][labelled])


def _rejected(evidence: Evidence) -> dict[str, tuple[int, dict[str, float]]]:
    records, rejects = evidence.records, evidence.rejects
    reasons = np.array(rejects.reason, dtype=object)
    found = {}
    for reason, num in Counter(rejects.reason).most_common():
        rows = rejects.row[reasons == reason]
        label = records.label[rows][records.has_label[rows]]
        counts = np.bincount(label, minlength=len(evidence.categories))
        shares = dict(zip(evidence.categories, (counts / max(1, len(label))).tolist(), strict=True))
        found[reason] = (num, shares if len(label) else {})
    return found


def _drift(evidence: Evidence) -> Drift:
    records = evidence.records
    annotated, sampled = records.is_annotated, records.is_sampled
    labelled = records.has_label & sampled
    both = annotated & labelled
    label_shares = {}
    for code, category in enumerate(evidence.categories):
        is_category = records.label == code
        if both.any():
            among = Estimate.share(int((is_category & both).sum()), int(both.sum()))
            label_shares[category] = (among, float(is_category[labelled].mean()))
    return Drift(
        label_shares=label_shares,
        p_values=_p_values(records),
        mean_score=(_mean(records.score[both]), _mean(records.score[labelled])),
        median_chars=(_median(records.num_chars[annotated]), _median(records.num_chars[sampled])),
        mean_chars=(_mean(records.num_chars[annotated]), _mean(records.num_chars[sampled])),
    )


def _p_values(records: Records) -> dict[str, float]:
    """Empty where all records of the sampled splits were annotated, or none."""
    annotated, others = records.is_annotated, records.is_sampled & ~records.is_annotated
    labelled = records.has_label
    if not (annotated & labelled).any() or not (others & labelled).any():
        return {}
    codes = np.unique(records.label[labelled & records.is_sampled])
    counts = [
        [int((records.label[of] == code).sum()) for code in codes] for of in (annotated & labelled, others & labelled)
    ]
    return {
        "labels": float(chi2_contingency(counts).pvalue),
        "scores": float(ks_2samp(records.score[annotated & labelled], records.score[others & labelled]).pvalue),
        "text lengths": float(ks_2samp(records.num_chars[annotated], records.num_chars[others]).pvalue),
    }


def _mean(values: NDArray) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0


def _median(values: NDArray) -> float:
    return float(np.median(values)) if len(values) else 0.0
