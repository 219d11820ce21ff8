"""Answers to samples of disagreements can be saved too, and what cannot be saved is refused."""

from datetime import UTC, datetime

import pytest

from llambert.annotation.peoples_answers import PeoplesAnswers
from llambert.errors import InputError
from llambert.hashing import hash64
from llambert.review.disagreements import draw
from llambert.review.saving import is_of_disagreements, render, save_answers
from tests.fixtures.synthetic_run import Plan, write_run

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("saving"), Plan(num=400))


def test_answers_about_disagreements_are_saved_by_text(run):
    sample = draw(run, 6)
    given = {
        "kim": dict(zip(sample.items, ["Positive", " negative ", "MIXED/neutral", "positive"], strict=False)),
        "lee": {sample.items[0]: "positive", sample.items[1]: "positive"},
    }
    assert is_of_disagreements(run, given)
    saved = save_answers(run, given, NOW)
    assert (saved.num_answers, saved.num_saved, saved.num_missing) == (6, 6, None)
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names)
    said = [people.said.get(text) for text in hash64(sample.texts).tolist()]
    assert said == [
        ("positive", None), (None, "people_disagree"), (None, "no_category"), ("positive", None), None, None,
    ]  # fmt: skip
    assert render(saved, "films.yaml") == [
        "6 answers saved at 2026-03-01T09:00:00.000+00:00",
        "kim and lee: 1 of 2 answers equal, Cohen's kappa 0.000.",
        "next: llambert run films.yaml",
    ]


def test_a_person_who_says_two_things_of_one_text_is_refused_and_nothing_is_saved(run):
    first, other = draw(run, 5, seed=1), draw(run, 300, seed=2)
    again = other.items[other.texts.index(first.texts[0])]
    before = run.table("people").part_names()
    with pytest.raises(InputError, match="sam said 'negative' of its text, and 'positive' of the same text in another"):
        save_answers(run, {"sam": {first.items[0]: "positive", again: "negative"}}, NOW)
    assert run.table("people").part_names() == before
    assert save_answers(run, {"sam": {first.items[0]: "positive", again: "positive"}}, NOW).num_saved == 1


def test_a_word_that_was_not_offered_with_this_item_is_refused(run):
    sample, other = draw(run, 3, seed=3, mixed="neither"), draw(run, 3, seed=3)
    with pytest.raises(InputError, match="the answer 'mixed/neutral' is none of positive, negative, neither"):
        save_answers(run, {"kim": {sample.items[0]: "mixed/neutral"}}, NOW)
    assert save_answers(run, {"ann": {other.items[0]: "mixed/neutral"}}, NOW).num_saved == 1
