"""Rows of a table, found by a 64-bit hash."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike, NDArray

Mask = NDArray[np.bool_]


class HashIndex:
    """Columns of a table, looked up by the 64-bit hash of a record's id."""

    def __init__(self, parts: Iterable[tuple[NDArray, ...]], *dtypes: DTypeLike) -> None:
        """``parts``: hashes and columns of each part of the table. ``dtypes``: of the columns."""
        empty = (np.empty(0, np.uint64), *(np.empty(0, dtype) for dtype in dtypes))
        hashes, *columns = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
        order = np.argsort(hashes)
        self._hashes, self._columns = hashes[order], [column[order] for column in columns]

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, hashes: NDArray[np.uint64]) -> tuple[Mask, list[NDArray]]:
        """Which hashes are in the index, and each column's values for them; those of the others mean nothing."""
        if not len(self):
            return np.zeros(len(hashes), bool), [np.zeros(len(hashes), column.dtype) for column in self._columns]
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self) - 1)
        return self._hashes[places] == hashes, [column[places] for column in self._columns]
