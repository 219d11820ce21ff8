"""How good the classifier is on the records held out, after each epoch."""

from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

_NUM_BINS = 10


def held_out_metrics(
    probabilities: np.ndarray, labels: np.ndarray, targets: np.ndarray, categories: list[str]
) -> dict[str, Any]:
    """Figures of ``probabilities`` (records, categories) against the labels held out, silver ones as a rule.

    ``loss``: cross-entropy against ``targets``; ``accuracy``, ``macro_f1``, ``calibration_error`` (expected,
    ten bins); ``classes``: precision, recall and number of records by category.
    """
    predicted = probabilities.argmax(axis=1)
    codes = np.arange(len(categories))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=codes, zero_division=0)
    return {
        "num_records": len(labels),
        "loss": float(-(targets * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1).mean()),
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(f1.mean()),
        "calibration_error": calibration_error(probabilities.max(axis=1), predicted == labels),
        "classes": {
            category: {"precision": float(precision[c]), "recall": float(recall[c]), "num_records": int(support[c])}
            for c, category in enumerate(categories)
        },
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over ten bins of equal width (Guo et al. 2017, arXiv 1706.04599)."""
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
