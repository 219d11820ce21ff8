"""What a recipe wants guaranteed of its final labels: the section ``guarantee``."""

from math import ceil
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from llambert.section import Section


class GuaranteeRecipe(Section):
    """What must hold of the final labels, and who decides what the classifier is not sure of enough.

    With probability ``confidence`` at least the share ``target`` of all labelled records gets the label that the
    ``oracle`` gives or would give. With ``people`` that is accuracy; with the ``annotator`` it is agreement with an
    LLM, which is worth something only where the LLM is the better judge.
    """

    target: float = Field(gt=0)
    """Below 1: only a corpus of which every record is decided by the oracle keeps a promise for all of them."""
    confidence: float = Field(0.95, ge=0.5, lt=1)
    oracle: Literal["annotator", "people"] = "annotator"
    certify_records: PositiveInt | None = None
    """Records drawn at random that the oracle decides, to find from which score on the classifier's labels may be
    kept. More of them keep more labels. Null: by ``num_to_certify``. Choose it before you look: what is promised of the
    best of several tries is less than what is promised of one."""
    max_records: NonNegativeInt | None = None
    """At most so many records with lower scores are asked of the annotator, the least sure first; null: all, as far
    as the budget in ``annotator.limits`` goes."""
    per_category: bool = False
    """The target holds for the records of each category that the classifier gives, not only for all together."""
    escalate: Literal["auto", "always", "never"] = "auto"
    """Whether records below the threshold are asked of the annotator. ``auto``, oracle ``annotator``: unless gold
    labels show that the annotator is the worse judge of them; oracle ``people``: only if people's answers show that
    it is the better one."""
    seed: int = 0
    """Of the draw of ``certify_records``, which is independent of all other draws."""

    def num_to_certify(self, num_records: int) -> int:
        """``certify_records``, or how many of a corpus of ``num_records`` cost the fewest questions.

        ``20 / (1 - target)``, and for the annotator of large corpora ``num_records ** (2 / 3) / 2``: what a sample of
        ``n`` defers too many falls as ``num_records / sqrt(n)``. Asks 1.04 times as often as the best size did, 1.26
        times at most, on two tasks of 2,000 to 10,000 records; a fixed 1,000 asked 1.83 times
        (``tests/benchmarks/bench_replays.py``). People who cannot decide all that is deferred need no more than the
        first.
        """
        if self.certify_records is not None:
            return self.certify_records
        by_target = ceil(20 / (1 - self.target) - 1e-9)
        return by_target if self.oracle == "people" else max(by_target, round(num_records ** (2 / 3) / 2))

    @field_validator("target")
    @classmethod
    def _is_below_one(cls, target: float) -> float:
        if target >= 1:
            raise ValueError(
                "must be below 1, since no sample can show that every label is right: choose 0.99, for example, or "
                "have annotator.num_records cover the corpus"
            )
        return target
