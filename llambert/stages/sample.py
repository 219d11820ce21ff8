"""Sample: a random subset of the corpus -> ``sample``, the records that the annotator is asked about.

``sample`` is in sampling order, part by part, so its first n rows are the sample of n records. Gold labels are read for
gold shots alone.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.annotation.sampling import Exclusion, IdSource, Selection, select, select_stratified
from llambert.annotation.splits import check_regime_and_splits, is_sampled
from llambert.errors import InputError
from llambert.hashing import hash64
from llambert.run import Run
from llambert.stages.rank_order import in_rank_order
from llambert.stages.shots import draw_shots
from llambert.storage.manifest import Manifest, Part
from llambert.storage.run_directory import TableDirectory

logger = logging.getLogger(__name__)
_ALWAYS_REPORTED = (Exclusion.DUPLICATE, Exclusion.NOT_SAMPLED)


def sample(run: Run) -> Manifest:
    """Write the ``sample`` table (record_id, text, split) in sampling order; skipped when complete.

    Duplicates, gold shots and records of other splits than ``annotator.splits`` are left out. Where fewer records are
    eligible than ``annotator.num_records``, all are taken and the manifest's counts have the difference as
    ``num_short``. ``split.<name>`` counts the sampled records of each split, if the corpus has splits. Driver memory:
    the sample's ids and hashes, one part of the corpus, a window of texts (``rank_order.py``); the ids of all
    duplicates if the sample is stratified, eight bytes a duplicate if it is of some splits. Two passes over the
    corpus, the first of which reads ids alone, at about a million a second; one more if the sample is of some splits.
    """
    table = run.table("sample")
    if manifest := table.read_manifest():
        return manifest
    started = time.monotonic()
    annotator = run.recipe.annotator
    if run.table("responses").read_manifest() is None:  # refused before anything is paid for
        check_regime_and_splits(run.recipe, run.table("corpus"))
    eligible = _count_eligible(run)
    eligible.require_some()
    selection = _select(run, eligible)
    num_selected = len(selection)
    if num_selected < annotator.num_records:
        logger.warning(
            "annotator.num_records: only %d of %d records can be annotated", num_selected, annotator.num_records
        )
    parts, per_split = _write_sample(run, selection)
    rejected = {
        Exclusion.OTHER_SPLIT: eligible.num_other_split,
        Exclusion.DUPLICATE: eligible.num_duplicates,
        Exclusion.SHOT: eligible.num_shots,
        Exclusion.NOT_SAMPLED: eligible.num - num_selected,
    }
    of_splits = {"splits": list(annotator.splits)} if annotator.splits is not None else {}
    selection_of = {"num_records": annotator.num_records, "seed": annotator.seed, "stratify_by": annotator.stratify_by}
    return run.complete(
        "sample",
        parts,
        {why: num for why, num in rejected.items() if num or why in _ALWAYS_REPORTED},
        num_in=run.table("corpus").require_manifest().num_kept,
        recipe={**selection_of, **of_splits},
        counts={"num_short": annotator.num_records - num_selected, **per_split},
        wall_seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Eligible:
    """How many records can be annotated, and how many cannot, by the first reason that holds."""

    num: int
    num_other_split: int
    num_duplicates: int
    num_shots: int

    def require_some(self) -> None:
        """``InputError`` if there is no record that can be annotated."""
        if self.num:
            return
        raise InputError(
            "annotator.num_records: no record can be annotated: of the corpus' records, "
            f"{self.num_other_split:,} are of splits that annotator.splits does not name, "
            f"{self.num_duplicates:,} have the text of an earlier record and {self.num_shots:,} are shots"
        )


def _count_eligible(run: Run) -> _Eligible:
    """Draws the gold shots, if the recipe has any; ``InputError`` where a split that is to be annotated is unknown."""
    annotator, corpus = run.recipe.annotator, run.table("corpus")
    num_in = corpus.require_manifest().num_kept
    if annotator.splits is None:
        num_duplicates = run.table("duplicates").require_manifest().num_kept
        num_shots = draw_shots(run).num_kept if annotator.gold_shots else 0
        return _Eligible(num_in - num_duplicates - num_shots, 0, num_duplicates, num_shots)
    per_split: Counter[str] = Counter()
    for part in corpus.iter_tables([schema.SPLIT]):
        per_split.update(part[schema.SPLIT].to_pylist())
    if unknown := [name for name in annotator.splits if name not in per_split]:
        raise InputError(
            f"annotator.splits: no record of the corpus is of split {unknown[0]!r}; it has "
            f"{', '.join(sorted(per_split))}"
        )
    num_sampled = sum(per_split[name] for name in set(annotator.splits))
    num_duplicates, num_shots = _num_among_sampled(run, run.table("duplicates")), 0
    if annotator.gold_shots:
        draw_shots(run)
        num_shots = _num_among_sampled(run, run.table("shots"))
    num_eligible = num_sampled - num_duplicates - num_shots
    return _Eligible(num_eligible, num_in - num_sampled, num_duplicates, num_shots)


def _num_among_sampled(run: Run, table: TableDirectory) -> int:
    """How many records of ``table`` are in the splits that are annotated; 64 bits of each of its ids in memory."""
    hashes = [hash64(ids) for ids in _ids(table).read()]
    apart = np.sort(np.concatenate([np.empty(0, np.uint64), *hashes]))
    if not len(apart):
        return 0
    num = 0
    for ids in _ids_of_splits(run):
        found = hash64(ids)
        num += int((apart[np.minimum(np.searchsorted(apart, found), len(apart) - 1)] == found).sum())
    return num


def _ids_of_splits(run: Run) -> Iterator[pa.ChunkedArray]:
    for part in run.table("corpus").iter_tables([schema.RECORD_ID, schema.SPLIT]):
        yield part[schema.RECORD_ID].filter(is_sampled(run.recipe, part[schema.SPLIT]))


def _select(run: Run, eligible: _Eligible) -> Selection:
    annotator, corpus = run.recipe.annotator, run.table("corpus")
    apart = _ids(run.table("duplicates"), *([run.table("shots")] if annotator.gold_shots else []))
    if annotator.stratify_by is None:
        source = _ids(corpus)
        if annotator.splits is not None:
            num_apart = eligible.num_duplicates + eligible.num_shots
            apart = IdSource(apart.read, num_apart)
            source = IdSource(lambda: _ids_of_splits(run), eligible.num + num_apart)
        return select(source, apart, annotator.num_records, annotator.seed)
    column = _stratum_column(run)

    def read() -> Iterator[tuple[pa.ChunkedArray, pa.ChunkedArray]]:
        for table in corpus.iter_tables(list(dict.fromkeys([schema.RECORD_ID, column, schema.SPLIT]))):
            kept = table.filter(is_sampled(run.recipe, table[schema.SPLIT]))
            yield kept[schema.RECORD_ID], kept[column]

    excluded = [ids.combine_chunks() for ids in apart.read()]
    return select_stratified(
        read, pa.concat_arrays([pa.array([], pa.string()), *excluded]), annotator.num_records, annotator.seed
    )


def _stratum_column(run: Run) -> str:
    """``annotator.stratify_by``, if the corpus has it and it does not hold gold labels."""
    column, corpus = run.recipe.annotator.stratify_by, run.recipe.corpus
    possible = [schema.SPLIT, *corpus.columns.keep]
    if column not in possible:
        raise InputError(
            f"annotator.stratify_by: the corpus table has no column {column!r} to sample by; it has "
            f"{', '.join(possible)} (corpus.columns.keep adds more)"
        )
    return str(column)


def _ids(*tables: TableDirectory) -> IdSource:
    """The ids of tables that share none."""
    parts = [(table, part) for table in tables for part in table.require_manifest().parts]

    def read() -> Iterator[pa.ChunkedArray]:
        for table, part in parts:
            yield table.read_part(part.name, [schema.RECORD_ID])[schema.RECORD_ID]

    return IdSource(read, sum(part.num_rows for _, part in parts))


def _write_sample(run: Run, selection: Selection) -> tuple[list[Part], dict[str, int]]:
    """Commit the sample's parts; them, and of a corpus with splits ``split.<name>`` -> its sampled records."""
    table, parts, per_split = run.table("sample"), [], Counter[str]()
    corpus = run.table("corpus").iter_tables(schema.SAMPLE.names)
    for name, rows in in_rank_order(corpus, selection.record_ids, schema.SAMPLE, run.recipe.annotator.records_per_part):
        parts.append(table.commit_part(name, rows))
        per_split.update(rows[schema.SPLIT].to_pylist())
    has_splits = run.recipe.corpus.columns.split is not None
    return parts, {f"split.{name}": num for name, num in sorted(per_split.items())} if has_splits else {}
