"""Whether a classifier agrees with its annotator on new records as it did on those held out when it was trained.

One-sided tests at ``LEVEL``: of a classifier that is as good as before, one generation of a corpus in a hundred looks
worse by chance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import chi2_contingency, fisher_exact

LEVEL = 0.01
MIN_RECORDS = 20
"""Of either kind, below which nothing is decided: of 20 records Fisher's test sees agreement fall from all to 13."""


@dataclass(frozen=True)
class Agreement:
    """Of ``num`` records that the classifier has not learned from, ``num_equal`` have the annotator's label."""

    num: int
    num_equal: int

    def __str__(self) -> str:
        return f"{self.num_equal:,} of {self.num:,} ({self.num_equal / max(self.num, 1):.1%})"


def has_enough(before: Agreement, now: Agreement) -> bool:
    """Whether there are enough records to decide."""
    return min(before.num, now.num) >= MIN_RECORDS


def p_of_drop(before: Agreement, now: Agreement) -> float:
    """How often chance alone makes agreement fall at least so far: Fisher's exact test, one-sided."""
    table = [[one.num_equal, one.num - one.num_equal] for one in (now, before)]
    return float(fisher_exact(table, alternative="less").pvalue)


def p_of_shares(before: Mapping[str, int], now: Mapping[str, int]) -> float | None:
    """How often chance alone makes label shares differ at least so much: Pearson's chi-squared test.

    None if there is nothing to compare: no record on one side, or one label on both.
    """
    names = sorted(name for name in before.keys() | now.keys() if before.get(name, 0) + now.get(name, 0))
    counts = [[of.get(name, 0) for name in names] for of in (before, now)]
    if len(names) < 2 or not all(map(sum, counts)):
        return None
    return float(chi2_contingency(counts, correction=False).pvalue)
