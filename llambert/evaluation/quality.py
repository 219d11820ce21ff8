"""A run's quality figures, computed from its evidence.

A figure that needs gold is None without it. Accuracies count each text once: records with the text of an earlier
record are left out. Shares are of the whole corpus, duplicates included. Gold labels that the classifier may have been
trained on (regimes ``gold`` and ``combined``), and those of records with the same text, are left out of the
classifier's figures; those that the annotator was given are left out of the annotator's.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, ks_2samp

from llambert.annotation.calibration import CalibrationError, ReliabilityBin, calibration_error, reliability_bins
from llambert.evaluation.evidence import Evidence, Records
from llambert.evaluation.final_labels import FinalLabels, assess_final
from llambert.evaluation.metrics import (
    ClassFigures,
    CoveragePoint,
    Estimate,
    accuracy,
    class_figures,
    confusion,
    independent_difference,
    paired_difference,
    risk_coverage,
)
from llambert.evaluation.shares import corrected_shares
from llambert.evaluation.thresholds import ScoreThreshold, score_threshold

_COVERAGES = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
_WANTED_ACCURACIES = (0.8, 0.85, 0.9, 0.95, 0.99)
# Of distinct gold texts, below which shares are not corrected: with fewer the intervals hold nearly every share.
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
    calibration: CalibrationError | None
    """Of the stated probabilities; None without."""

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the categories that occur in gold or in the labels."""
        present = np.flatnonzero(self.matrix.sum(axis=0) + self.matrix.sum(axis=1))
        return float(np.mean([self.classes[code].f1 for code in present]))


@dataclass(frozen=True)
class CategoryShare:
    """The share of the corpus that one category has: by the final labels, and corrected by gold if there is any."""

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
    """The annotated subset beside the splits it was drawn from: a random subset differs by chance only.

    By the classifier's own labels, of both alike: of a certified run's final labels those of the subset are the
    annotator's, and a difference would tell of the judges, not of the draw.
    """

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
    """Of the usable answers; those that were rejected have no label to judge."""
    silver_rejects_wrong: Estimate | None
    """Accuracy of the silver labels if each rejected answer counted as a wrong one."""
    unseen: Evaluation | None
    whole: Evaluation | None
    """Of all records whose gold was not trained on: annotated ones, from whose silver labels it learned, included."""
    unlearned: Estimate | None
    """Accuracy on all records that the classifier did not learn from, those annotated for other purposes included."""
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
    thresholds: dict[float, ScoreThreshold | None]
    """Wanted accuracy -> the lowest threshold that is proven to reach it."""
    final: FinalLabels | None
    """Of a certified run; None otherwise."""
    agreement: Estimate | None
    """Share of the silver records to which the classifier gives the silver label; needs no gold."""
    rejected: dict[str, tuple[int, dict[str, float]]]
    """Reject reason -> number of records, and the classifier's label shares among them."""
    drift: Drift


def assess(evidence: Evidence) -> Quality:
    """All quality figures of a run."""
    records, guaranteed = evidence.records, evidence.guaranteed
    unseen, unlearned = records.is_unseen, records.is_unlearned
    silver = _evaluate_silver(evidence)
    unseen_evaluation = _evaluate_classifier(evidence, unseen)
    shares, shares_need = _shares(evidence)
    right = records.label[unseen] == records.gold[unseen]
    score = records.score[unseen].astype(np.float64)
    wanted_accuracies = _WANTED_ACCURACIES if len(score) else ()
    all_scores = np.sort(records.score[records.has_label])
    difference = None
    if unseen_evaluation and silver:
        difference = independent_difference(unseen_evaluation.accuracy, silver.accuracy)
    return Quality(
        num_gold=records.num_gold,
        num_unseen=int(unseen.sum()),
        silver=silver,
        silver_rejects_wrong=_silver_rejects_wrong(evidence, silver),
        unseen=unseen_evaluation,
        whole=_evaluate_classifier(evidence, records.judges_classifier),
        unlearned=accuracy(records.gold[unlearned], records.label[unlearned]) if unlearned.any() else None,
        by_split=_by_split(evidence, np.flatnonzero(unseen), records.label[unseen]),
        silver_by_split=_by_split(evidence, *_judged_silver(evidence)),
        difference=difference,
        prior=_prior_correction(evidence),
        shares=shares,
        shares_need=shares_need,
        coverage=risk_coverage(score, right, _COVERAGES) if len(score) else [],
        thresholds={
            wanted: score_threshold(records.score[unseen], right, all_scores, wanted) for wanted in wanted_accuracies
        },
        final=assess_final(records, guaranteed) if guaranteed and guaranteed.is_certified else None,
        agreement=_agreement(evidence),
        rejected=_rejected(evidence),
        drift=_drift(evidence),
    )


def _evaluate_silver(evidence: Evidence) -> Evaluation | None:
    silver = evidence.silver
    chosen = evidence.records.judges_annotator[silver.row]
    confidence = None if silver.confidence is None else silver.confidence[chosen]
    return _evaluate(evidence, silver.row[chosen], silver.label[chosen], confidence)


def _silver_rejects_wrong(evidence: Evidence, silver: Evaluation | None) -> Estimate | None:
    num_rejected = int(evidence.records.judges_annotator[evidence.rejects.row].sum())
    num_usable, num_right = (silver.accuracy.num, int(silver.matrix.trace())) if silver else (0, 0)
    num = num_usable + num_rejected
    return Estimate.share(num_right, num) if num else None


def _judged_silver(evidence: Evidence) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """Places and labels of the silver records that gold can judge."""
    silver = evidence.silver
    chosen = evidence.records.judges_annotator[silver.row]
    return silver.row[chosen], silver.label[chosen]


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
        calibration=None if confidence is None else calibration_error(confidence, gold == given),
    )


def _by_split(evidence: Evidence, rows: NDArray[np.int64], labels: NDArray[np.int16]) -> dict[str, Estimate]:
    """Accuracy by split of the labels given to these records, which have gold."""
    records = evidence.records
    if len(records.splits) < 2:
        return {}
    found = {}
    for code, name in enumerate(records.splits):
        chosen = records.split[rows] == code
        if chosen.any():
            found[name] = accuracy(records.gold[rows[chosen]], labels[chosen])
    return found


def _prior_correction(evidence: Evidence) -> PriorCorrection | None:
    records, silver = evidence.records, evidence.silver
    with_gold = records.judges_annotator[silver.row]
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
    """Shares of the labelled records by their final labels, corrected if there is enough gold."""
    records, categories = evidence.records, evidence.categories
    num_labelled = np.bincount(records.final[records.has_label], minlength=len(categories))
    raw = num_labelled / max(1, num_labelled.sum())
    is_given = records.is_trained_on_gold | (records.is_given_away & (records.decided_by > 0))
    with_gold = records.has_gold & records.has_label & ~is_given
    text = records.text[with_gold]
    enough = len(np.unique(text)) >= _MIN_FOR_SHARES
    corrected: Sequence[Estimate | None] = [None] * len(categories)
    if enough:
        num_copies = np.bincount(records.text[records.has_label])[text]
        gold, label = records.gold[with_gold], records.final[with_gold]
        corrected = corrected_shares(gold, label, num_labelled, text, num_copies)
    num_silver = len(evidence.silver.label)
    silver = np.bincount(evidence.silver.label, minlength=len(categories))
    found = [
        CategoryShare(
            category=category,
            num_labelled=int(num_labelled[code]),
            raw=float(raw[code]),
            corrected=corrected[code],
            silver=float(silver[code] / num_silver) if num_silver else None,
        )
        for code, category in enumerate(categories)
    ]
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
