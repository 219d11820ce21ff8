"""Who judges better is said only where the interval of the difference shows it."""

import numpy as np
import pytest

from llambert.evaluation.judges import Judges


def judges(num_annotator: int, num_classifier: int, num: int = 60) -> Judges:
    ranks = np.arange(num)
    return Judges.compare(ranks < num_annotator, ranks[::-1] < num_classifier)


ANNOTATOR, CLASSIFIER, NEITHER = judges(55, 25), judges(25, 55), judges(40, 39)


@pytest.mark.parametrize(
    ("found", "wanted", "oracle", "escalates"),
    [
        (ANNOTATOR, "auto", "annotator", True),
        (CLASSIFIER, "auto", "annotator", False),
        (NEITHER, "auto", "annotator", True),
        (Judges.unknown(), "auto", "annotator", True),
        (ANNOTATOR, "auto", "people", True),
        (CLASSIFIER, "auto", "people", False),
        (NEITHER, "auto", "people", False),
        (Judges.unknown(), "auto", "people", False),
        (CLASSIFIER, "always", "annotator", True),
        (ANNOTATOR, "never", "people", False),
    ],
)
def test_whether_to_escalate(found, wanted, oracle, escalates):
    assert found.escalates(wanted, oracle) is escalates


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (ANNOTATOR, "the annotator is right on 55, the classifier on 25: the annotator is the better judge"),
        (CLASSIFIER, "the annotator is right on 25, the classifier on 55: the classifier is the better judge"),
        (NEITHER, "neither is shown to be the better judge"),
        (Judges.unknown(), "no gold label tells"),
    ],
)
def test_the_comparison_in_words(found, verdict):
    assert verdict in found.sentence


@pytest.mark.parametrize("found", [ANNOTATOR, CLASSIFIER, NEITHER, Judges.unknown()])
def test_a_manifest_says_it_again(found):
    again = Judges.of(found.counts, found.measures)
    assert again.sentence == found.sentence
    assert again.escalates("auto", "people") == found.escalates("auto", "people")


def test_nothing_to_compare_tells_nothing():
    assert Judges.compare(np.zeros(0, bool), np.zeros(0, bool)) == Judges.unknown()


def test_a_better_judge_of_a_handful_is_not_shown():
    assert not judges(3, 2, num=3).annotator_is_better
