"""What a recipe has made of gold labels besides figures: shots in the prompt, and a phase of training."""

from pydantic import Field, PositiveInt

from llambert.section import Section


class GoldShots(Section):
    """Shots drawn from gold records by ``seed``, as many of each category as of any other (to one).

    From split ``train`` where the corpus has one, never from ``test``; the records drawn are not annotated. The draw is
    independent of the annotation sample, whatever the seeds.
    """

    seed: int = 0
    max_chars: PositiveInt = 1_000
    """Longer texts are no shots."""


class GoldPhase(Section):
    """The second phase of regime ``combined``: gold records, from the silver checkpoint; the paper's values."""

    epochs: PositiveInt = 5
    learning_rate: float = Field(1e-6, gt=0)
    num_records: PositiveInt | None = None
    """So many, drawn by ``classifier.seed``: nested subsets, independent of which records are annotated; null: all."""
