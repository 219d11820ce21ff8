"""What became of the guarantee that a recipe wants: what is certified, who decided what, and what is still missing."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llambert import schema
from llambert.annotation.peoples_answers import PeoplesAnswers
from llambert.evaluation.certified import ALL, ESCALATES, NUM_TRIES, Certified
from llambert.evaluation.frontier import Frontier, FrontierPoint
from llambert.evaluation.judges import Judges
from llambert.guarantee_recipe import GuaranteeRecipe
from llambert.hashing import hash64
from llambert.recipe import digest
from llambert.run import Run
from llambert.storage.manifest import Manifest

_ROUNDING = 1e-9  # 1 - 140 / 2000 is a little less than 0.93
TABLES = ("certification", "certificate", "decisions")
"""Tables of a guarantee that the report shows."""
ASKED = {"certificate": "certification_responses", "decisions": "escalated"}
"""Table -> the responses that its stage asked for."""


@dataclass(frozen=True)
class Guaranteed:
    """A guarantee, as far as a run has come with it."""

    recipe: GuaranteeRecipe
    manifests: dict[str, Manifest]
    """Those of ``TABLES`` and of ``ASKED`` that are complete."""
    rows: pa.Table | None
    """``schema.CERTIFICATE``; None while there is none."""
    num_unanswered: int
    """Sampled texts that people have not answered yet; 0 if there is a certificate."""
    categories: list[str]

    @classmethod
    def read(cls, run: Run) -> "Guaranteed | None":
        """What the tables of ``run`` say; None if its recipe wants no guarantee.

        ``InputError`` naming the table that is not complete; that of people's answers may be.
        """
        recipe = run.recipe.guarantee
        if recipe is None:
            return None
        waits = recipe.oracle == "people" and run.table("decisions").read_manifest() is None
        if waits:
            manifests = {"certification": run.table("certification").require_manifest()}
            return cls(recipe, manifests, None, num_unanswered(run), run.task.category_names)
        manifests = {name: run.table(name).require_manifest() for name in TABLES}
        escalates = bool(manifests["certificate"].counts[ESCALATES])
        asked = [name for name in ASKED.values() if escalates or name != "escalated"]  # asked before: of no use now
        others = {name: run.table(name).read_manifest() for name in asked}
        manifests |= {name: manifest for name, manifest in others.items() if manifest}
        return cls(recipe, manifests, run.table("certificate").read(), 0, run.task.category_names)

    @property
    def is_certified(self) -> bool:
        """Whether there are a certificate and final labels."""
        return "decisions" in self.manifests

    @cached_property
    def certified(self) -> Certified:
        """The certificate."""
        return Certified.of(self.manifests["certificate"])

    @cached_property
    def judges(self) -> Judges:
        """Who judges the records below the threshold better."""
        certificate = self.manifests["certificate"]
        return Judges.of(certificate.counts, certificate.measures)

    @property
    def escalates(self) -> bool:
        """Whether records below the threshold were to be asked of the annotator."""
        return bool(self.manifests["certificate"].counts[ESCALATES])

    @property
    def num_tries(self) -> int:
        """Certificates made of these labels, with whatever settings."""
        return self.manifests["certificate"].counts[NUM_TRIES]

    @property
    def num_records(self) -> int:
        """Final labels."""
        return self.manifests["decisions"].num_kept

    def num_decided_by(self, who: str) -> int:
        """``classifier``, ``annotator`` or ``person``."""
        return self.manifests["decisions"].counts[f"by_{who}"]

    @property
    def num_undecided(self) -> int:
        """Records below the threshold that nobody has decided."""
        return self.manifests["decisions"].counts["num_undecided"]

    @property
    def num_unusable(self) -> int:
        """Records whose answer names no category."""
        return self.manifests["decisions"].counts["num_unusable"]

    @property
    def share_bounds(self) -> dict[str, float]:
        """By category, or for ``ALL`` of them: the share of records with the oracle's label, at least."""
        measures = self.manifests["decisions"].measures
        return {
            name: measures["share_bound" if name == ALL else f"share_bound.{name}"]
            for name in self.certified.certificates
        }

    @property
    def lowest(self) -> tuple[str, float]:
        """The category with the lowest bound, or ``ALL``, and that bound."""
        return min(self.share_bounds.items(), key=lambda bound: bound[1])

    @property
    def is_reached(self) -> bool:
        """Whether the target is reached of all records, or of those of every category."""
        return self.num_others == 0 and self.lowest[1] >= self.recipe.target - _ROUNDING

    @property
    def num_others(self) -> int:
        """With people as the oracle, the records that the annotator decided instead: nothing is certified of them."""
        return self.num_decided_by("annotator") if self.recipe.oracle == "people" else 0

    @property
    def bound_of_covered(self) -> float:
        """Of the records that the oracle decided or that kept their label by the certificate: the share that is right.

        The certificate bounds the wrong ones among the kept, and those of the oracle are right.
        """
        certified = self.certified
        num_wrong = sum(
            (1 - certificate.share_bound) * certified.populations[name].num_records
            for name, certificate in certified.certificates.items()
        )
        return max(1 - num_wrong / max(self.num_covered, 1), 0.0)

    @property
    def num_covered(self) -> int:
        """Records that ``bound_of_covered`` is about."""
        return self.num_records - self.num_others - self.num_undecided - self.num_unusable

    @property
    def num_decided_before(self) -> int:
        """Records that the oracle decided before any was deferred: those of the training, and of the sample."""
        populations = self.certified.populations.values()
        return sum(each.num_records - each.num_undecided for each in populations) + self.certified.num_sampled

    def frontier(self, open_score: NDArray[np.float32]) -> Frontier:
        """Of the certificate's sample; ``open_score``: those of the records that it was drawn from, sorted."""
        assert self.rows is not None, "no certificate"
        label, oracle, gold = (self.rows[name] for name in (schema.LABEL, schema.ORACLE_LABEL, schema.GOLD_LABEL))

        def equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> NDArray[np.bool_]:
            return np.asarray(pc.fill_null(pc.equal(one, other), False))

        return Frontier(
            num_records=self.num_records,
            num_open=self.num_records - self.num_decided_before,
            open_score=open_score,
            score=self._score,
            classifier_agrees=equal(label, oracle),
            is_usable=np.asarray(pc.is_valid(oracle)),
            has_gold=np.asarray(pc.is_valid(gold)),
            classifier_right=equal(label, gold),
            oracle_right=equal(oracle, gold),
        )

    def chosen(self, frontier: Frontier) -> FrontierPoint:
        """The point of the certificate: what it does not let keep its label is deferred, decided or not."""
        assert self.rows is not None, "no certificate"
        codes = np.asarray(pc.index_in(self.rows[schema.LABEL], value_set=pa.array(self.categories, pa.string())))
        kept = self.certified.is_kept(codes.astype(np.int64), self._score, self.categories)
        num_kept = self.num_decided_by("classifier") - self.num_undecided - self.num_unusable
        return frontier.at(kept, max(self.num_records - num_kept - self.num_decided_before, 0))

    @property
    def _score(self) -> NDArray[np.float32]:
        assert self.rows is not None, "no certificate"
        return self.rows[schema.SCORE].to_numpy().astype(np.float32)


def guarantee_version(run: Run) -> str:
    """Stands for all that ``Guaranteed.read`` reads: another one where answers have come since; empty without."""
    if run.recipe.guarantee is None:
        return ""
    found = [run.table(name).read_manifest() for name in TABLES]
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names).version
    return digest([[each.content, each.upstream] if each else None for each in found], people)


def num_unanswered(run: Run) -> int:
    """How many texts of the certification sample no person has answered."""
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names)
    texts = np.unique(hash64(run.table("certification").read([schema.TEXT])[schema.TEXT]))
    return sum(text not in people for text in texts.tolist())
