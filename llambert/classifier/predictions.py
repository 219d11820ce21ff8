"""What a classifier says about texts."""

from dataclasses import dataclass, field

import numpy as np

from llambert.errors import LabelFault


@dataclass(frozen=True)
class Predictions:
    """What the classifier says about ``n`` texts, in their order.

    ``labels``: category names, None where ``failures`` has the index. ``probabilities``: float32 of shape
    (n, categories), rows summing to 1; ``scores``: float32 (n,), the probability of ``labels``; both NaN for
    a failure. ``failures``: by index.
    ``num_tokens`` are real tokens, special ones included; ``num_padded_tokens`` what the model was given.
    ``num_truncated`` texts had more tokens than the checkpoint takes. ``busy_seconds``: the model at work.
    """

    labels: list[str | None]
    scores: np.ndarray
    probabilities: np.ndarray
    failures: dict[int, LabelFault] = field(default_factory=dict)
    num_tokens: int = 0
    num_padded_tokens: int = 0
    num_truncated: int = 0
    busy_seconds: float = 0.0

    @property
    def padding_waste(self) -> float:
        """Share of the token positions computed that were padding."""
        return 1 - self.num_tokens / self.num_padded_tokens if self.num_padded_tokens else 0.0


def concatenate(parts: list[Predictions]) -> Predictions:
    """The predictions of consecutive windows as one."""
    starts = np.cumsum([0, *(len(part.labels) for part in parts)])
    return Predictions(
        [label for part in parts for label in part.labels],
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        {
            int(start) + row: fault
            for start, part in zip(starts, parts, strict=False)
            for row, fault in part.failures.items()
        },
        sum(part.num_tokens for part in parts),
        sum(part.num_padded_tokens for part in parts),
        sum(part.num_truncated for part in parts),
        sum(part.busy_seconds for part in parts),
    )
