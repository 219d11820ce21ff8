import numpy as np
import pytest

from llambert.annotation.calibration import calibration_error
from llambert.training.held_out_metrics import held_out_metrics

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.4, 0], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.9, 0], [0, 0.8, 0.2]]
)


def test_figures_of_three_categories_are_those_counted_by_hand():
    figures = held_out_metrics(PROBABILITIES, LABELS, np.eye(3)[LABELS], ["no", "maybe", "yes"])
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["classes"]["no"] == {"precision": 1.0, "recall": pytest.approx(2 / 3), "num_records": 3}
    assert figures["classes"]["maybe"] == {"precision": 0.5, "recall": 1.0, "num_records": 2}
    assert figures["classes"]["yes"] == {"precision": 0.0, "recall": 0.0, "num_records": 1}
    assert figures["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    assert figures["loss"] == pytest.approx(-np.log([0.8, 0.6, 0.3, 0.7, 0.9, 0.2]).mean())
    # Of the two records of confidence 0.6 one is right, as of the two of 0.8; those of 0.7 and 0.9 are.
    confidence, is_right = PROBABILITIES.max(axis=1), PROBABILITIES.argmax(axis=1) == LABELS
    of_report = calibration_error(confidence, is_right)
    assert (figures["calibration_error"], figures["calibration_error_if_calibrated"]) == (
        of_report.value,
        of_report.if_calibrated,
    )
    assert figures["calibration_error"] == pytest.approx((2 * 0.1 + 0.3 + 2 * 0.3 + 0.1) / 6)
