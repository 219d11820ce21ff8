"""Duplicates: the first record with each text."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.storage.run_directory import TableDirectory


def first_occurrences(duplicates: TableDirectory, ids: pa.ChunkedArray) -> np.ndarray:
    """For each record the id of the first record with its text (its own, if it is no duplicate)."""
    first = np.array(ids.to_pylist(), dtype=object)
    if duplicates.read_manifest() is None:  # a corpus that ingest did not write
        return first
    for part in duplicates.iter_tables():
        place = pc.index_in(ids, value_set=part[schema.RECORD_ID].combine_chunks())
        known = pc.is_valid(place).to_numpy()
        first[known] = part[schema.DUPLICATE_OF].take(place.drop_null()).to_pylist()
    return first


def unique_text_positions(ids: pa.ChunkedArray, first: pa.ChunkedArray) -> pa.Array:
    """Places of one record for each text, in order: the one that is ``first``, or else the first of its copies."""
    names, firsts = np.array(ids.to_pylist(), dtype=str), np.array(first.to_pylist(), dtype=str)
    order = np.argsort(names != firsts, kind="stable")
    return pa.array(np.sort(order[np.unique(firsts[order], return_index=True)[1]]), pa.int64())
