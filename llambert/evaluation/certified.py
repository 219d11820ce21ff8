"""A certificate as the manifest of the run's table ``certificate`` says it: what may be kept, and what is promised."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llambert.evaluation.guarantee import Certificate, Population, Promise
from llambert.evaluation.metrics import Codes
from llambert.storage.manifest import Manifest

ESCALATES = "escalates"
"""Count of the certificate: 1 if records below the threshold are to be asked of the annotator, else 0."""
NUM_UNUSABLE = "num_unusable"
"""Count of certificate and decisions: records whose answer names no category."""
NUM_TRIES = "num_tries"
"""Count of the certificate: how many were made of the same labels, with whatever settings, this one included."""
ALL = ""
"""Stands for all categories together, where the promise is one for all of them."""


@dataclass(frozen=True)
class Certified:
    """What a run has certified, for each category that the classifier gives, or for ``ALL`` of them."""

    promise: Promise
    populations: Mapping[str, Population]
    certificates: Mapping[str, Certificate]

    def thresholds(self, categories: list[str]) -> NDArray[np.float32]:
        """For each category, in order, the lowest score from which on a label is kept; infinite where none may be."""
        found = [self.certificates[name if name in self.certificates else ALL].threshold for name in categories]
        return np.array([np.inf if each is None else each for each in found], np.float32)

    def is_kept(self, code: Codes, score: NDArray[np.float32], categories: list[str]) -> NDArray[np.bool_]:
        """Whether the classifier's label of category ``code`` may be kept; not of records decided by the oracle."""
        return np.asarray(score >= self.thresholds(categories)[code])

    @property
    def num_sampled(self) -> int:
        """Records of the certification sample."""
        return sum(each.num_sampled for each in self.certificates.values())

    def figures(self) -> tuple[dict[str, int], dict[str, float]]:
        """Counts and measures of the manifest, from which ``of`` makes this again."""
        counts: dict[str, int] = {"answers_replace": int(self.promise.answers_replace)}
        measures = {"target": self.promise.target, "confidence": self.promise.confidence}
        for name, certificate in self.certificates.items():
            population = self.populations[name]
            counts[_of("num_records", name)] = population.num_records
            counts[_of("num_undecided", name)] = population.num_undecided
            measures[_of("floor", name)] = population.floor
            for field in ("num_sampled", "num_kept", "num_wrong", "max_wrong"):
                counts[_of(field, name)] = getattr(certificate, field)
            measures[_of("share_bound", name)] = certificate.share_bound
            if certificate.threshold is not None:
                measures[_of("threshold", name)] = certificate.threshold
        return counts, measures

    @classmethod
    def of(cls, manifest: Manifest) -> "Certified":
        """What a manifest of the table ``certificate`` says."""
        counts, measures = manifest.counts, manifest.measures
        names = [key.removeprefix("num_undecided").removeprefix(".") for key in counts if key.startswith("num_undec")]
        promise = Promise(measures["target"], measures["confidence"], bool(counts["answers_replace"]))
        populations = {
            name: Population(
                counts[_of("num_records", name)], counts[_of("num_undecided", name)], measures[_of("floor", name)]
            )
            for name in names
        }
        certificates = {
            name: Certificate(
                threshold=measures.get(_of("threshold", name)),
                share_bound=measures[_of("share_bound", name)],
                num_sampled=counts[_of("num_sampled", name)],
                num_kept=counts[_of("num_kept", name)],
                num_wrong=counts[_of("num_wrong", name)],
                max_wrong=counts[_of("max_wrong", name)],
            )
            for name in names
        }
        return cls(promise, populations, certificates)


def _of(figure: str, name: str) -> str:
    return f"{figure}.{name}" if name else figure
