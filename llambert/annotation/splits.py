"""Which splits of a corpus are annotated, and which of them a regime learns from."""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.errors import InputError
from llambert.recipe import ClassifierRecipe, Recipe
from llambert.storage.manifest import Manifest
from llambert.storage.run_directory import TableDirectory

TRAIN, EXTRA, TEST = "train", "extra", "test"
_NOT_LEARNED = {"gold": (), "silver": (TEST, EXTRA), "silver_extra": (TEST,), "combined": (TEST,)}

logger = logging.getLogger(__name__)


def unused_splits(regime: str) -> tuple[str, ...]:
    """Splits whose silver labels ``regime`` does not learn from; regime ``gold`` learns from no silver label at all."""
    return _NOT_LEARNED[regime]


def format_splits(splits: tuple[str, ...]) -> str:
    """``split train`` or ``splits extra, train``."""
    return f"split{'s' if len(splits) > 1 else ''} {', '.join(splits)}"


def is_training_gold(corpus: pa.Table) -> pa.ChunkedArray:
    """Which of these records of a corpus have a gold label that may be learned from: those of split ``train``."""
    return pc.and_(pc.equal(corpus[schema.SPLIT], TRAIN), pc.is_valid(corpus[schema.GOLD_LABEL]))


def is_sampled(recipe: Recipe, split: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which of these splits are annotated: those in ``annotator.splits``, all where it is null."""
    if recipe.annotator.splits is None:
        return pc.is_valid(split)
    return pc.is_in(split, value_set=pa.array(recipe.annotator.splits, pa.string()))


def check_regime_and_splits(recipe: Recipe, corpus: TableDirectory) -> None:
    """``InputError`` where ``classifier.regime`` and ``annotator.splits`` contradict each other.

    That is where the regime would learn from none of the records that are still to be annotated, or where regime
    ``silver_extra`` would get none of split ``extra``. ``corpus`` must be complete. Regime ``gold`` learns from no
    annotation, regardless of the splits.
    """
    unwanted, splits = unused_splits(recipe.classifier.regime), recipe.annotator.splits
    if recipe.classifier.regime == "silver_extra" and splits is not None and EXTRA not in splits:
        raise InputError(
            f"classifier.regime: silver_extra learns from split {EXTRA} too, which is not in annotator.splits "
            f"({', '.join(splits)}); add it there, or choose regime silver"
        )
    if not unwanted:
        return
    found: set[str] = set()
    parts = corpus.iter_tables([schema.SPLIT])
    in_corpus = (name for part in parts for name in pc.unique(part[schema.SPLIT]).to_pylist())
    for name in splits or in_corpus:
        if name not in unwanted:
            return
        found.add(name)
    raise InputError(
        f"annotator.splits: classifier.regime {recipe.classifier.regime} learns from no record of "
        f"{format_splits(tuple(sorted(found)))}, and no other records would be annotated; name the splits to annotate "
        "in annotator.splits, or choose another classifier.regime"
    )


def warn_of_unused_annotations(recipe: ClassifierRecipe, sample: Manifest) -> None:
    """Warn where the recipe's regime does not learn from all records of a sample that is about to be annotated."""
    if not recipe.learns_silver:
        logger.warning(
            "classifier.regime gold learns from none of the %d records to be annotated: they only show how good the "
            "annotator is",
            sample.num_kept,
        )
    per_split = {name: sample.counts.get(f"split.{name}", 0) for name in unused_splits(recipe.regime)}
    if lost := {name: num for name, num in per_split.items() if num}:
        logger.warning(
            "annotator.splits: %d of %d records to be annotated (%.0f %%) are of splits that classifier.regime %s does "
            "not learn from: %s; set annotator.splits to annotate others",
            sum(lost.values()),
            sample.num_kept,
            100 * sum(lost.values()) / sample.num_kept,
            recipe.regime,
            ", ".join(f"{num} {name}" for name, num in lost.items()),
        )
