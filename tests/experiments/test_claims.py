"""The words follow from the numbers: each claim confirmed, contradicted or open, as made-up cells decide."""

import numpy as np
import pytest

from llambert.evaluation.metrics import Estimate
from llambert.experiments.claims import CONFIRMED, CONTRADICTED, OPEN, findings, verdict
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from tests.fixtures.hand_made import results, results_of
from tests.fixtures.labelled_films import open_experiment
from tests.fixtures.simulated_classifiers import MIXTURES, draw_right


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return {
        "regimes": open_experiment(folder, "regimes"),
        "label_count": open_experiment(folder, "label_count", silver_counts=[200, 800, 3200]),
        "mislabel": open_experiment(folder, "mislabel", shares=[0.0, 0.2]),
    }


def around(value: float) -> list[float]:
    """Three seeds close to a value."""
    return [value - 0.0004, value, value + 0.0004]


def swapped(value: float) -> list[float]:
    """The same seeds, differing the other way round."""
    return list(reversed(around(value)))


def test_one_seed_decides_nothing():
    assert verdict(Estimate(0.2)) == OPEN
    assert verdict(Estimate(0.2, 0.1, 0.3)) == CONFIRMED
    assert verdict(Estimate(0.2, 0.1, 0.3), above=0.4) == CONTRADICTED


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [((0.90, 0.94, 0.941), CONFIRMED), ((0.90, 0.91, 0.95), CONTRADICTED), ((0.90, 0.92, 0.94), OPEN)],
)
def test_a_plateau_is_a_doubling_that_gains_less_than_before(experiments, accuracies, expected):
    values = dict(zip([("silver", 200), ("silver", 800), ("silver", 3200)], map(around, accuracies), strict=True))
    values["silver", 3200] = swapped(accuracies[2])
    plateau = next(one for one in findings(experiments["label_count"], results(values)) if "plateau" in one.claim)
    assert plateau.verdict == expected
    assert "between 200 and 800 labels" in plateau.text
    assert "between 800 and 3,200" in plateau.text


def test_gold_and_silver_are_compared_at_the_same_number_of_labels(experiments):
    values = {("silver", 200): around(0.90), ("gold", 200): swapped(0.92), ("gold", 800): around(0.95)}
    texts = {one.text: one.verdict for one in findings(experiments["label_count"], results(values))}
    (text,) = [text for text in texts if text.startswith("at 200 labels gold minus silver +2.00 points")]
    assert texts[text] == CONFIRMED


@pytest.mark.parametrize(("wrong", "expected"), [(0.93, CONFIRMED), (0.85, CONTRADICTED)])
def test_resilience_is_a_loss_far_below_the_share_of_wrong_labels(experiments, wrong, expected):
    values = {(END_TO_END, 0.0): around(0.95), (END_TO_END, 0.2): swapped(wrong)}
    (finding,) = findings(experiments["mislabel"], results(values))
    assert finding.verdict == expected
    assert f"loses {100 * (0.95 - wrong):+.2f} points" in finding.text
    assert "roberta-large on IMDb lost 0.64" in finding.text


@pytest.mark.parametrize(("annotated", "expected"), [(0.90, CONFIRMED), (0.95, CONTRADICTED), (0.93, OPEN)])
def test_the_annotators_errors_are_held_against_random_ones_of_the_same_share(experiments, annotated, expected):
    values = {(END_TO_END, 0.05): around(0.93), (ANNOTATOR, 0.05): swapped(annotated)}
    (finding,) = findings(experiments["mislabel"], results(values))
    assert finding.verdict == expected
    assert "5.0% of errors" in finding.text
    assert "differ by +1.52" in finding.text


def test_end_to_end_is_held_against_the_frozen_encoder(experiments):
    values = {(END_TO_END, 0.0): around(0.95), (FROZEN, 0.0): around(0.80)}
    (finding,) = findings(experiments["mislabel"], results(values))
    assert finding.verdict == CONFIRMED
    assert "+15.00 points" in finding.text


def test_regimes_are_compared_for_each_encoder(experiments):
    values = {("tiny", "gold"): around(0.94), ("tiny", "silver"): around(0.96), ("tiny", "combined"): around(0.95)}
    verdicts = [one.verdict for one in findings(experiments["regimes"], results(values))]
    assert verdicts == [CONFIRMED, CONTRADICTED, CONFIRMED]


@pytest.mark.parametrize(
    ("kind", "places", "errors"),
    [
        ("regimes", [("tiny", "gold"), ("tiny", "silver"), ("tiny", "combined")], [0.06, 0.06, 0.06]),
        # As much is gained between 200 and 800 labels as between 800 and 3,200.
        ("label_count", [("silver", 200), ("silver", 800), ("silver", 3200)], [0.10, 0.08, 0.06]),
        # A quarter of the 20 % is lost.
        ("mislabel", [(END_TO_END, 0.0), (END_TO_END, 0.2)], [0.05, 0.10]),
    ],
)
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_what_holds_neither_way_is_decided_once_in_twenty_at_most(experiments, kind, places, errors, num_seeds):
    random, num, decided = np.random.default_rng(num_seeds), 200, {}
    for _ in range(num):
        right = dict(zip(places, draw_right(random, errors, MIXTURES["records"], num_seeds, 500), strict=True))
        for found in findings(experiments[kind], results_of(right)):
            decided[found.claim] = decided.get(found.claim, 0) + (found.verdict != OPEN)
    decided.pop("more silver labels help", None)  # they do
    assert decided
    assert max(decided.values()) / num < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / num)


def test_a_claim_that_the_choice_of_test_records_would_turn_is_open(experiments):
    # Five seeds that agree to a hundredth of a point, on 1,000 test records of which eight decide.
    gold = np.arange(1_000) < np.array([[950], [950], [950], [951], [951]])
    silver = gold | (np.arange(1_000) >= 992)
    right = {("tiny", "silver"): silver, ("tiny", "gold"): gold}
    (one,) = findings(experiments["regimes"], results_of(right))
    assert one.verdict == CONFIRMED
    few = np.arange(1_000) < 3
    right = {("tiny", "silver"): gold, ("tiny", "gold"): gold & ~few}
    (one,) = findings(experiments["regimes"], results_of(right))
    assert one.verdict == OPEN
