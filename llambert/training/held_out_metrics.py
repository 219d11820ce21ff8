"""Quality figures on the held-out records after an epoch."""

from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from llambert.annotation.calibration import calibration_error, labels_and_confidence


def held_out_metrics(
    probabilities: np.ndarray, labels: np.ndarray, targets: np.ndarray, categories: list[str]
) -> dict[str, Any]:
    """Figures of ``probabilities`` (records, categories) against the held-out labels, usually silver ones.

    ``loss``: cross-entropy against ``targets``; ``accuracy``, ``macro_f1``; ``calibration_error`` (expected) and
    ``calibration_error_if_calibrated``, its value for perfect calibration (``calibration_error`` of
    annotation/calibration.py); ``classes``: precision, recall and number of records by category.
    """
    predicted, confidence = labels_and_confidence(probabilities)
    calibration = calibration_error(confidence, predicted == labels)
    codes = np.arange(len(categories))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=codes, zero_division=0)
    return {
        "num_records": len(labels),
        "loss": float(-(targets * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1).mean()),
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(f1.mean()),
        "calibration_error": calibration.value,
        "calibration_error_if_calibrated": calibration.if_calibrated,
        "classes": {
            category: {"precision": float(precision[c]), "recall": float(recall[c]), "num_records": int(support[c])}
            for c, category in enumerate(categories)
        },
    }
