"""The undecided records of a replay, and what one certification sample makes of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from llambert.evaluation.guarantee import Population, Promise
from tests.benchmarks.replays.stored_answers import StoredAnswers


@dataclass(frozen=True)
class Outcome:
    """The final labels of one replay, and what they cost.

    ``agreement``: share of all records whose final label is the oracle's. ``num_sampled`` and ``num_deferred``:
    questions asked to certify, and about the records below the threshold that were not sampled.
    """

    agreement: float
    num_sampled: int
    num_deferred: int

    @property
    def num_questions(self) -> int:
        return self.num_sampled + self.num_deferred


@dataclass(frozen=True)
class Undecided:
    """``n`` undecided of ``num_records`` records, from the highest score to the lowest; arrays have shape (n,).

    ``wrong``: the classifier's label is not the oracle's. ``question``: equal where one question decides both records.
    ``row``: places among all records.
    """

    num_records: int
    score: NDArray[np.float32]
    wrong: NDArray[np.bool_]
    question: NDArray[np.int64]
    row: NDArray[np.int64]

    @property
    def population(self) -> Population:
        return Population(self.num_records, len(self.score))

    @cached_property
    def num_questions_above(self) -> NDArray[np.int64]:
        """Distinct questions among the first 0, 1, … n records."""
        is_first = np.zeros(len(self.question), np.int64)
        is_first[np.unique(self.question, return_index=True)[1]] = 1
        return np.concatenate([[0], np.cumsum(is_first)])

    def times(self, num: int) -> Self:
        """A corpus ``num`` times as large of the same kind: each record so often, each with a question."""
        if num == 1:
            return self
        score, wrong, row = (np.repeat(values, num) for values in (self.score, self.wrong, self.row))
        return type(self)(self.num_records * num, score, wrong, np.arange(len(score)), row)

    def target_of(self, promise: Promise) -> float:
        """The share of these records that may not be wrong, for rules that know of no others."""
        return 1 - self.population.num_allowed(promise.target) / len(self.score)

    def num_needed(self, promise: Promise) -> int:
        """Questions about the records below the lowest threshold that keeps the promise, for one who knows it."""
        ends = np.flatnonzero(np.append(self.score[1:] != self.score[:-1], True))
        may_end = np.cumsum(self.wrong)[ends] <= self.population.num_allowed(promise.target)
        num_kept = int(ends[may_end][-1]) + 1 if may_end.any() else 0
        return int(self.num_questions_above[-1] - self.num_questions_above[num_kept])

    def num_kept(self, threshold: float | None) -> int:
        """The first so many records have a score of at least ``threshold``, a float32 number; None: 0."""
        return 0 if threshold is None else int(np.searchsorted(-self.score, -np.float32(threshold), side="right"))

    def outcome(self, sampled: NDArray[np.int64], num_kept: int) -> Outcome:
        """Records ``sampled`` (their places here) and all but the first ``num_kept`` take the oracle's answer."""
        num_wrong = int(self.wrong[:num_kept].sum() - self.wrong[sampled[sampled < num_kept]].sum())
        below = np.unique(self.question[sampled[sampled >= num_kept]])
        num_below = int(self.num_questions_above[-1] - self.num_questions_above[num_kept])
        return Outcome(1 - num_wrong / self.num_records, len(np.unique(self.question[sampled])), num_below - len(below))


def undecided_by_annotator(stored: StoredAnswers) -> Undecided:
    """The records that were not annotated for the training; an answer without a label makes the label wrong.

    A question is about a text, whose copies have one score.
    """
    wrong = ~stored.answered | (stored.label != stored.answer)
    return _ordered(stored, np.flatnonzero(~stored.annotated), wrong, stored.text_of)


def undecided_by_people(stored: StoredAnswers) -> Undecided:
    """All records with a gold label: people have decided none, and are asked about each record apart."""
    rows = np.flatnonzero(stored.has_gold)
    return _ordered(stored, rows, stored.label != stored.gold, np.arange(len(stored.label)), len(rows))


def _ordered(
    stored: StoredAnswers,
    rows: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    question: NDArray[np.int64],
    num_records: int | None = None,
) -> Undecided:
    rows = rows[np.argsort(-stored.score[rows], kind="stable")]
    return Undecided(
        len(stored.score) if num_records is None else num_records, stored.score[rows], wrong[rows], question[rows], rows
    )
