"""What a recipe wants guaranteed of its final labels: the section ``guarantee``."""

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
    certify_records: PositiveInt = 1_000
    """Records drawn at random that the oracle decides, to find from which score on the classifier's labels may be
    kept. More of them keep more labels."""
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

    @field_validator("target")
    @classmethod
    def _is_below_one(cls, target: float) -> float:
        if target >= 1:
            raise ValueError(
                "must be below 1, since no sample can show that every label is right: choose 0.99, for example, or "
                "have annotator.num_records cover the corpus"
            )
        return target
