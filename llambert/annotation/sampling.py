"""Which records are annotated: the n smallest keyed hashes of (seed, record_id).

The sample is exactly n records, uniform, nested (the sample of n holds every smaller one of the same seed) and
depends on nothing but the ids and the seed: not on blocks, order, workers or machines. The smallest n of a
part, merged with those of the other parts, are the smallest n of the corpus; nobody holds more than a
selection of n ids at a time.

A stratified sample keeps the shares of a column's values exactly, to one record a value: the records of each
value in the order of their hashes, the r-th of N at position (r + 1/2) / N, and all values together in the
order of their positions. So it is exact and nested too.

Other draws (``Purpose``) hash with a personalization string as well: with the same seed, what one purpose draws says
nothing about what another does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert.hashing import hash64


class Exclusion(StrEnum):
    """Why a record is not annotated, or not learned from."""

    OTHER_SPLIT = "other_split"
    DUPLICATE = "duplicate"  # of an earlier record's text
    SHOT = "shot"
    NOT_SAMPLED = "not_sampled"
    LOW_CONFIDENCE = "low_confidence"
    BEYOND_NUM_RECORDS = "beyond_num_records"


class Purpose(StrEnum):
    """What a draw is for: BLAKE2b's personalization string, at most 16 bytes.

    The annotation sample has none, and neither has the order in which silver records are trained on: the first n of
    them are what annotating n records would have given.
    """

    ANNOTATION = ""
    GOLD_SHOTS = "gold_shots"
    GOLD_TRAINING = "gold_training"
    TEST = "test"
    REVIEW = "review"
    TRIAL = "trial"
    CERTIFICATION = "certification"


def sampling_hashes(
    record_ids: pa.Array | pa.ChunkedArray | Iterable[str], seed: int, purpose: Purpose = Purpose.ANNOTATION
) -> np.ndarray:
    """``hash64`` of each id, keyed with the seed; the order of two ids that share one is decided by the ids."""
    return hash64(record_ids, str(seed).encode(), purpose.encode())


@dataclass(frozen=True)
class Selection:
    """Ids in the order of their sampling hash; ``hashes[i]`` is that of ``record_ids[i]``."""

    hashes: np.ndarray
    record_ids: pa.Array

    @classmethod
    def empty(cls) -> Self:
        """No id at all: where merging starts."""
        return cls(np.empty(0, dtype=np.uint64), pa.array([], pa.string()))

    @classmethod
    def smallest(
        cls, record_ids: pa.Array | pa.ChunkedArray, num: int, seed: int, purpose: Purpose = Purpose.ANNOTATION
    ) -> Self:
        """The ``num`` ids with the smallest hashes, or all where there are fewer."""
        if isinstance(record_ids, pa.ChunkedArray):
            record_ids = record_ids.combine_chunks()
        hashes = sampling_hashes(record_ids, seed, purpose)
        if num < len(hashes):
            # Everything up to the num-th smallest hash, ties included; _first puts them in order and cuts.
            candidates = np.flatnonzero(hashes <= np.partition(hashes, num - 1)[num - 1])
            hashes, record_ids = hashes[candidates], record_ids.take(pa.array(candidates))
        return cls._first(hashes, record_ids, num)

    @classmethod
    def _first(cls, hashes: np.ndarray, record_ids: pa.Array, num: int) -> Self:
        table = pa.table({"hash": pa.array(hashes, pa.uint64()), "record_id": record_ids.cast(pa.string())})
        order = pc.sort_indices(table, sort_keys=[("hash", "ascending"), ("record_id", "ascending")])[:num]
        return cls(hashes[order.to_numpy()], table["record_id"].combine_chunks().take(order))

    def __len__(self) -> int:
        return len(self.record_ids)

    def merge(self, other: "Selection", num: int) -> "Selection":
        """The ``num`` smallest of both."""
        hashes = np.concatenate([self.hashes, other.hashes])
        return self._first(hashes, pa.concat_arrays([self.record_ids, other.record_ids]), num)

    def without(self, record_ids: pa.Array) -> "Selection":
        """What is left when these ids are taken out."""
        kept = pc.invert(pc.is_in(self.record_ids, value_set=record_ids))
        return Selection(self.hashes[kept.to_numpy(zero_copy_only=False)], self.record_ids.filter(kept))


@dataclass(frozen=True)
class IdSource:
    """The ids of a table. ``read`` gives them part by part, anew at every call; ``num_records`` is their number."""

    read: Callable[[], Iterator[pa.ChunkedArray]]
    num_records: int


def select(corpus: IdSource, duplicates: IdSource, num: int, seed: int) -> Selection:
    """The ``num`` records of smallest hash that are no duplicates, or all of those where there are fewer.

    Memory: one part's ids and about ``num`` ids scaled by the share of duplicates. A duplicate is hashed
    like any record, so among the m smallest of the corpus about m times their share are duplicates: m is
    chosen six standard deviations wide of that, and widened in the rare case that it does not do.
    """
    eligible = corpus.num_records - duplicates.num_records
    num = min(num, eligible)
    if num <= 0:
        return Selection.empty()
    wanted = num * corpus.num_records / eligible
    width = min(corpus.num_records, int(wanted + 6 * np.sqrt(wanted)) + 1) if duplicates.num_records else num
    while True:
        widest = _smallest_of(corpus.read(), width, seed)
        kept = widest
        for ids in duplicates.read():
            kept = kept.without(ids.combine_chunks())
        if len(kept) >= num or len(widest) < width or width >= corpus.num_records:
            return Selection(kept.hashes[:num], kept.record_ids[:num])
        width = min(2 * width, corpus.num_records)


def _smallest_of(parts: Iterable[pa.ChunkedArray], num: int, seed: int) -> Selection:
    selection = Selection.empty()
    for ids in parts:
        selection = selection.merge(Selection.smallest(ids, num, seed), num)
    return selection


def select_stratified(
    read: Callable[[], Iterator[tuple[pa.ChunkedArray, pa.ChunkedArray]]], excluded: pa.Array, num: int, seed: int
) -> Selection:
    """``num`` records that are not ``excluded``, in the order of their positions in their strata.

    ``read`` gives ids and strata part by part, anew at each of two calls; a null is a stratum too. Memory: the
    ids of ``excluded``, about ``num`` ids, and one part's.
    """

    def parts() -> Iterator[tuple[pa.Array, pa.Array]]:
        for ids, strata in read():
            kept = pc.invert(pc.is_in(ids, value_set=excluded))
            names = pc.fill_null(strata.cast(pa.string()), "null")
            yield ids.filter(kept).combine_chunks(), names.filter(kept).combine_chunks()

    sizes: Counter[str] = Counter()
    for _, strata in parts():
        sizes.update({entry["values"]: entry["counts"] for entry in pc.value_counts(strata).to_pylist()})
    ranks = stratified_ranks(sizes, num)
    chosen = {name: Selection.empty() for name, of_name in ranks.items() if len(of_name)}
    for ids, strata in parts():
        for name in pc.unique(strata).to_pylist():
            if name in chosen:
                smallest = Selection.smallest(ids.filter(pc.equal(strata, name)), len(ranks[name]), seed)
                chosen[name] = chosen[name].merge(smallest, len(ranks[name]))
    if not chosen:
        return Selection.empty()
    order = np.argsort(np.concatenate([ranks[name] for name in chosen]))
    hashes = np.concatenate([selection.hashes for selection in chosen.values()])
    record_ids = pa.concat_arrays([selection.record_ids for selection in chosen.values()])
    return Selection(hashes[order], record_ids.take(pa.array(order)))


def stratified_ranks(sizes: Mapping[str, int], num: int) -> dict[str, np.ndarray]:
    """For each stratum the ranks, in a stratified sample of ``num`` records, of its first records.

    ``sizes``: records of each stratum. Ranks go from 0 to ``num`` (or to all records, where there are fewer).
    """
    names, total = sorted(sizes), sum(sizes.values())
    # A stratum has at most its share of the first num, and one more for the rounding of each.
    lengths = [min(sizes[name], int((num + len(names)) * sizes[name] / total) + 2) for name in names]
    positions = [(np.arange(length) + 0.5) / sizes[name] for name, length in zip(names, lengths, strict=True)]
    owners = np.repeat(np.arange(len(names)), lengths)
    order = np.lexsort((owners, np.concatenate(positions) if positions else np.zeros(0)))[:num]
    return {name: np.flatnonzero(owners[order] == index) for index, name in enumerate(names)}
