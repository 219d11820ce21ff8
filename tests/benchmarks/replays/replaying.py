"""Replays of one task at one target: certification samples redrawn for each trained classifier."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llambert.evaluation.guarantee import Promise
from tests.benchmarks.replays.stored_answers import SEEDS, StoredAnswers, stored_path
from tests.benchmarks.replays.threshold_rules import Rule
from tests.benchmarks.replays.undecided import Outcome, Undecided

TARGETS = (0.9, 0.95, 0.98)
TITLES = {"umls": "UMLS", "umls_people": "UMLS", "thesaurus": "thesaurus", "reviews": "reviews", "news": "news"}


@dataclass(frozen=True)
class Replays:
    """What many replays of one rule at one target came to."""

    outcomes: list[Outcome]
    target: float

    @property
    def num_broken(self) -> int:
        # Shares are whole records over their number: a billionth is rounding.
        return sum(outcome.agreement < self.target - 1e-9 for outcome in self.outcomes)

    @property
    def broken_interval(self) -> tuple[float, float]:
        """Exact 95 % interval of the share of broken promises (Clopper & Pearson 1934)."""
        interval = stats.binomtest(self.num_broken, len(self.outcomes)).proportion_ci(0.95, method="exact")
        return float(interval.low), float(interval.high)

    def mean(self, name: str) -> float:
        return float(np.mean([getattr(outcome, name) for outcome in self.outcomes]))

    def broken(self) -> str:
        low, high = self.broken_interval
        return f"{100 * self.num_broken / len(self.outcomes):.1f} ({100 * low:.1f} to {100 * high:.1f})"


@dataclass(frozen=True)
class Samples:
    """How certification samples are drawn: ``per_seed`` for each training seed, the same for every rule."""

    per_seed: int
    seed: int

    def of(self, records: Undecided, num: int, training_seed: int) -> Iterator[NDArray[np.int64]]:
        """Places of ``num`` records, or of all, drawn uniformly without replacement."""
        rng = np.random.default_rng([self.seed, training_seed])
        for _ in range(self.per_seed):
            yield rng.choice(len(records.score), min(num, len(records.score)), replace=False, shuffle=False)


def load_stored(cache: Path, corpora: Collection[str]) -> dict[str, list[StoredAnswers]]:
    """The stored answers of all training seeds by corpus; of one that is not complete a line says what is missing."""
    found = {}
    for corpus in corpora:
        paths = [stored_path(cache, corpus, seed) for seed in SEEDS]
        if missing := [path for path in paths if not path.exists()]:
            print(f"\n{TITLES[corpus]} is skipped: {missing[0]} is missing; run --part make")
            continue
        found[corpus] = [StoredAnswers.load(path) for path in paths]
    return found


def replay(
    records_of_seeds: list[Undecided],
    promise: Promise,
    rule: Rule,
    num: int | Callable[[Undecided], int],
    draw: Samples,
) -> Replays:
    """``num``: records sampled to certify, or what it is made of."""
    outcomes = [
        records.outcome(sampled, rule(records, sampled, promise))
        for seed, records in zip(SEEDS, records_of_seeds, strict=True)
        for sampled in draw.of(records, num if isinstance(num, int) else num(records), seed)
    ]
    return Replays(outcomes, promise.target)


def promise_of(target: float) -> Promise:
    return Promise(target, answers_replace=True)
