"""Save what people answered, so that it counts for a guarantee, for evaluation and, if asked, for training."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llambert import schema
from llambert.annotation.peoples_answers import PeoplesAnswers, PersonsAnswer, save
from llambert.errors import InputError
from llambert.evaluation.guaranteed import num_unanswered
from llambert.review.agreement import Agreement, agreements
from llambert.review.items import OTHER_ANSWER, REFERENCE, read_keys
from llambert.run import Run

Given = Mapping[str, Mapping[str, str]]
"""Person -> item -> answer."""


@dataclass(frozen=True)
class Saved:
    """What became of the answers of an import."""

    num_answers: int
    num_saved: int
    """Without those that were saved before."""
    num_missing: int | None
    """Texts of the certification sample that nobody has answered; None if people are not to answer any."""
    agreements: list[Agreement]
    answered_at: datetime


def is_of_disagreements(run: Run, given: Given) -> bool:
    """Whether ``given`` has answers to a sample of disagreements, of which a cross-table is made."""
    items = {item for of in given.values() for item in of}
    key = read_keys(run, items)
    return any(key[item][REFERENCE] is not None for item in items)


def save_answers(run: Run, given: Given, answered_at: datetime) -> Saved:
    """Save ``given``, of any samples of this run, in its table ``people``.

    ``InputError``, and nothing is saved: an item that was never exported, an answer that was not offered, or a person
    who said two things of one text.
    """
    key = read_keys(run, {item for of in given.values() for item in of})
    answers = {
        person: {item: _offered(run, item, key[item], said) for item, said in of.items()}
        for person, of in given.items()
    }
    table, categories = run.table("people"), run.task.category_names
    num_saved = save(table, _by_text(answers, key), PeoplesAnswers.read(table, categories), answered_at)
    missing, guarantee = None, run.recipe.guarantee
    if guarantee is not None and guarantee.oracle == "people" and run.table("certification").read_manifest():
        missing = num_unanswered(run)
    return Saved(sum(map(len, answers.values())), num_saved, missing, agreements(answers), answered_at)


def render(saved: Saved, recipe: str, with_agreement: bool = True) -> list[str]:
    """What is printed: what was saved, how far people agree, what is missing, and what to do next."""
    num_known = saved.num_answers - saved.num_saved
    known = f", {num_known:,} were saved before" if num_known else ""
    lines = [f"{saved.num_saved:,} answers saved at {saved.answered_at.isoformat(timespec='milliseconds')}{known}"]
    if with_agreement:
        lines += [one.sentence for one in saved.agreements]
    if saved.num_missing:
        lines.append(f"{saved.num_missing:,} texts of the certification sample have no answer yet")
        return [*lines, f"next: llambert review export {recipe} --certify writes these; answer and import them"]
    if saved.num_missing == 0:
        lines.append("every text of the certification sample has an answer")
    return [*lines, f"next: llambert run {recipe}"]


def _offered(run: Run, item: str, row: Mapping[str, Any], said: str) -> str:
    """The answer as the task writes it."""
    offered = [*run.task.category_names, row[OTHER_ANSWER]]
    for answer in offered:
        if answer.strip().casefold() == said.strip().casefold():
            return answer
    raise InputError(f"item {item!r}: the answer {said!r} is none of {', '.join(offered)}")


def _by_text(answers: Given, key: Mapping[str, Mapping[str, Any]]) -> list[PersonsAnswer]:
    found: dict[tuple[str, int], PersonsAnswer] = {}
    for person, of in answers.items():
        for item, answer in of.items():
            text = key[item][schema.TEXT_HASH]
            one = PersonsAnswer(text, key[item][schema.RECORD_ID], answer, person)
            other = found.setdefault((person, text), one)
            if other.answer != answer:
                raise InputError(
                    f"item {item!r}: {person} said {answer!r} of its text, and {other.answer!r} of the same text in "
                    "another item; leave one of them out"
                )
    return list(found.values())
