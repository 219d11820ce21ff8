"""Answers of people are kept once, and the last one of each person counts."""

from datetime import UTC, datetime, timedelta

import pytest

from llambert import schema
from llambert.annotation.peoples_answers import (
    DISPUTED,
    NO_CATEGORY,
    PeoplesAnswers,
    PersonsAnswer,
    names_answers,
    save,
)
from llambert.storage.run_directory import TableDirectory

CATEGORIES = ["positive", "negative"]
MORNING = datetime(2026, 3, 1, 9, tzinfo=UTC)
TEXT, OTHER = 11, 2**64 - 1


@pytest.fixture
def table(tmp_path):
    return TableDirectory(f"{tmp_path}/people/task", schema.PEOPLES_ANSWERS)


def told(table, *answers: tuple[int, str, str], hour: int = 0) -> int:
    """Save (text, person, answer)s as an import so many hours after the first one; how many were new."""
    given = [PersonsAnswer(text, f"r{text}", said, person) for text, person, said in answers]
    return save(table, given, PeoplesAnswers.read(table, CATEGORIES), MORNING + timedelta(hours=hour))


def label_of(table, text: int, until: datetime | None = None):
    return PeoplesAnswers.read(table, CATEGORIES, until).said.get(text)


@pytest.mark.parametrize(
    ("answers", "label"),
    [
        ([("kim", "positive")], ("positive", None)),
        ([("kim", "positive"), ("lee", "positive")], ("positive", None)),
        ([("kim", "positive"), ("lee", "negative")], (None, DISPUTED)),
        ([("kim", "positive"), ("lee", "mixed")], (None, DISPUTED)),
        ([("kim", "mixed")], (None, NO_CATEGORY)),
        ([("kim", "mixed"), ("lee", "neither")], (None, NO_CATEGORY)),  # two words for the same
    ],
)
def test_a_text_has_the_label_that_all_who_answered_give_it(table, answers, label):
    told(table, *((TEXT, person, said) for person, said in answers), (OTHER, "kim", "negative"))
    assert label_of(table, TEXT) == label
    assert label_of(table, OTHER) == ("negative", None)
    assert label_of(table, 12) is None


def test_a_persons_later_answer_counts_and_so_does_going_back_to_the_first(table):
    for hour, said in enumerate(["positive", "negative", "positive"]):
        assert told(table, (TEXT, "kim", said), hour=hour) == 1
        assert label_of(table, TEXT) == (said, None)
    assert len(table.part_names()) == 3


def test_an_import_keeps_only_what_is_new(table):
    first = [(TEXT, "kim", "positive"), (OTHER, "kim", "negative")]
    assert told(table, *first) == 2
    before = PeoplesAnswers.read(table, CATEGORIES).version
    assert told(table, *reversed(first), hour=1) == 0
    assert PeoplesAnswers.read(table, CATEGORIES).version == before
    assert told(table, *first, (12, "kim", "positive"), (TEXT, "lee", "positive"), hour=2) == 2
    assert PeoplesAnswers.read(table, CATEGORIES).version != before
    assert [table.read_part(name).num_rows for name in table.part_names()].count(2) == 2


def test_what_was_saved_until_a_time_can_be_read_later(table):
    told(table, (TEXT, "kim", "positive"))
    told(table, (TEXT, "kim", "negative"), (OTHER, "kim", "negative"), hour=2)
    assert label_of(table, TEXT, MORNING + timedelta(hours=1)) == ("positive", None)
    assert label_of(table, OTHER, MORNING + timedelta(hours=1)) is None
    assert label_of(table, TEXT, MORNING + timedelta(hours=2)) == ("negative", None)


def test_a_part_is_named_after_all_that_is_in_it(table):
    told(table, (TEXT, "kim", "positive"), (OTHER, "lee", "negative"))
    [name] = table.part_names()
    rows = table.read_part(name)
    assert names_answers(name, rows)
    for column, other in ((schema.ANSWER, "negative"), (schema.PERSON, "lee"), (schema.RECORD_ID, "r12")):
        changed = [{**row, column: other} if row[schema.TEXT_HASH] == TEXT else row for row in rows.to_pylist()]
        assert not names_answers(name, rows.from_pylist(changed, schema=rows.schema)), column
    assert not names_answers(name, rows.slice(1))
