"""Who judges the records that a certificate defers better: the annotator, or the classifier after all."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llambert.evaluation.metrics import Estimate, paired_difference


@dataclass(frozen=True)
class Judges:
    """Both compared on the sampled records below the threshold whose gold label is known; None: there are none."""

    num_annotator_right: int = 0
    num_classifier_right: int = 0
    difference: Estimate | None = None
    """The annotator's accuracy minus the classifier's, on the same records."""

    @classmethod
    def unknown(cls) -> "Judges":
        """No gold label tells."""
        return cls()

    @classmethod
    def compare(cls, annotator_right: NDArray[np.bool_], classifier_right: NDArray[np.bool_]) -> "Judges":
        """Of some records, which of them each is right about."""
        if not len(annotator_right):
            return cls.unknown()
        difference = paired_difference(annotator_right, classifier_right)
        return cls(int(annotator_right.sum()), int(classifier_right.sum()), difference)

    @property
    def annotator_is_better(self) -> bool:
        """Whether the interval of the difference shows it."""
        return self.difference is not None and self.difference.bounds[0] > 0

    @property
    def classifier_is_better(self) -> bool:
        """Whether the interval of the difference shows it."""
        return self.difference is not None and self.difference.bounds[1] < 0

    def escalates(self, wanted: str, oracle: str) -> bool:
        """Whether records below the threshold go to the annotator, as ``guarantee.escalate`` says."""
        if wanted != "auto":
            return wanted == "always"
        return not self.classifier_is_better if oracle == "annotator" else self.annotator_is_better

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        if self.difference is None:
            return "no gold label tells who judges the others better"
        low, high = self.difference.bounds
        num = self.difference.num
        if self.annotator_is_better:
            verdict = "the annotator is the better judge"
        elif self.classifier_is_better:
            verdict = "the classifier is the better judge"
        else:
            verdict = "neither is shown to be the better judge"
        return (
            f"of {num:,} others with a gold label the annotator is right on {self.num_annotator_right:,}, the "
            f"classifier on {self.num_classifier_right:,}: {verdict} (difference {self.difference.value:+.1%}, 95 % "
            f"interval {low:+.1%} to {high:+.1%})"
        )

    @property
    def counts(self) -> dict[str, int]:
        """For the manifest."""
        if self.difference is None:
            return {"judges.num": 0}
        return {
            "judges.num": self.difference.num,
            "judges.num_annotator_right": self.num_annotator_right,
            "judges.num_classifier_right": self.num_classifier_right,
        }

    @property
    def measures(self) -> dict[str, float]:
        """For the manifest."""
        if self.difference is None:
            return {}
        low, high = self.difference.bounds
        return {"judges.difference": self.difference.value, "judges.low": low, "judges.high": high}

    @classmethod
    def of(cls, counts: dict[str, int], measures: dict[str, float]) -> "Judges":
        """What a certificate's manifest says."""
        if not counts.get("judges.num"):
            return cls.unknown()
        difference = Estimate(
            measures["judges.difference"], measures["judges.low"], measures["judges.high"], counts["judges.num"]
        )
        return cls(counts["judges.num_annotator_right"], counts["judges.num_classifier_right"], difference)
