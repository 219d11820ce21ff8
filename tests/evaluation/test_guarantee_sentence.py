"""The guarantee in words: never more than holds, and where it is missed, why and what to do."""

import pytest

from llambert.evaluation.guarantee_sentence import at_least, guarantee_sentences
from tests.fixtures.made_guarantees import made_guarantee

BY = {"classifier": 9_688, "annotator": 3_120}


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.95, "95 %"), (0.9499, "94.9 %"), (0.99999, "99.9 %"), (0.57, "57 %"), (0.886875, "88.6 %"), (1.0, "100 %")],
)
def test_a_lower_bound_is_rounded_down(share, shown):
    assert at_least(share) == shown


def test_a_guarantee_that_holds_is_one_sentence():
    assert guarantee_sentences(made_guarantee(BY, {"": 0.95})) == [
        "At least 95 % of the 12,808 final labels are those that the annotator gives (agreement with an LLM is not "
        "truth), with probability 95 %: 3,120 were decided by the annotator, 9,688 kept the classifier's label."
    ]


@pytest.mark.parametrize("target", [0.93, 0.95, 0.97, 0.98, 0.99])
def test_a_target_that_is_reached_to_the_record_is_reached(target):
    num_allowed = round((1 - target) * 2_000)
    guaranteed = made_guarantee({"classifier": 2_000}, {"": 1 - num_allowed / 2_000}, target=target)
    [sentence] = guarantee_sentences(guaranteed)
    assert sentence.startswith(f"At least {100 * target:g} % of the 2,000 final labels")


def test_with_people_it_is_about_right_labels():
    [sentence] = guarantee_sentences(made_guarantee({"classifier": 90, "person": 10}, {"": 0.97}, oracle="people"))
    assert sentence == (
        "At least 97 % of the 100 final labels are right, as people judge it, with probability 95 %: 10 were decided "
        "by people, 90 kept the classifier's label."
    )


@pytest.mark.parametrize(
    ("made", "reason", "remedy"),
    [
        ({"counts": {"num_undecided": 7}}, "7 records that the classifier is not sure", "guarantee.max_records"),
        ({"counts": {"num_unusable": 9}}, "answers about 9 records name no category", "make the prompt clearer"),
        ({"counts": {"num_undecided": 7}, "escalates": False, "escalate": "never"}, "escalate: never", "remove it"),
        (
            {"counts": {"num_undecided": 7}, "escalates": False},
            "the classifier is the better judge",
            "escalate: always",
        ),
        (
            {"counts": {"num_undecided": 7}, "escalates": False, "oracle": "people"},
            "do not show that the annotator is the better judge",
            "`llambert review export --escalate`",
        ),
    ],
)
def test_a_missed_target_says_what_was_reached_why_and_what_to_do(made, reason, remedy):
    by = BY if made.get("oracle") != "people" else {"classifier": 9_688, "person": 3_120}
    first, second = guarantee_sentences(made_guarantee(by, {"": 0.912}, **made))
    assert first.startswith("At least 91.2 % of the 12,808 final labels")
    assert second.startswith("The target of 95 % is not reached, because ")
    assert reason in second
    assert remedy in second


def test_of_several_categories_the_lowest_counts():
    first, second = guarantee_sentences(
        made_guarantee(BY, {"positive": 0.96, "negative": 0.9}, {"num_undecided": 7}, per_category=True)
    )
    assert "at least 90 % of the final labels" in first
    assert "the figure of negative, the lowest" in first
    assert "not reached" in second


def test_what_the_annotator_decides_in_peoples_place_is_not_promised():
    by = {"classifier": 600, "annotator": 300, "person": 100}
    guaranteed = made_guarantee(by, {"": 0.95}, oracle="people")
    assert not guaranteed.is_reached
    # At most 5 % of 1,000 are wrong, all of them among the 700 that people or the certificate vouch for.
    assert guaranteed.bound_of_covered == pytest.approx(1 - 50 / 700)
    first, second = guarantee_sentences(guaranteed)
    assert first.startswith("At least 92.8 % of the 700 labels that people decided")
    assert "Of the other 300 labels nothing is guaranteed" in second
