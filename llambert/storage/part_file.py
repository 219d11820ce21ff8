"""A part as a Parquet file: its rows as they come, its own counts in the footer, a checksum on every page.

Without checksums a fifth of all single altered bytes are read back as other rows, and no reader would know
(DECISIONS.md, "Drills").
"""

import contextlib
import io
import json
from collections.abc import Iterator
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from llambert.errors import InputError, one_line

# Under which a part carries its own counts, so that a restart reads footers, not rows.
COUNTS_KEY = b"llambert.counts"


class PartCounts(TypedDict, total=False):
    """What was counted when a part was made: see ``run_directory.Part``."""

    counts: dict[str, int]
    labels: dict[str, int]
    rejected: dict[str, int]


class PartRows:
    """The rows of a part that come piece by piece: compressed as they come, so a part of ten million takes little."""

    _ROWS_PER_GROUP = 65_536

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self.num_rows = 0

    def add(self, table: pa.Table) -> None:
        """More rows, of the same schema as those before; at least one table must come, if only an empty one."""
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        self.num_rows += table.num_rows
        if self._num_waiting >= self._ROWS_PER_GROUP:
            self._write()

    def content(self, counts: PartCounts) -> bytes:
        """The finished Parquet file; no row can be added afterwards."""
        if self._waiting:
            self._write()
        assert self._writer is not None, "a part without a table has no schema"
        self._writer.add_key_value_metadata({COUNTS_KEY: json.dumps(counts, sort_keys=True).encode()})
        self._writer.close()
        return self._sink.getvalue()

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, table.schema, compression="zstd", write_page_checksum=True)
        self._writer.write_table(table)
        self._waiting, self._num_waiting = [], 0


def stored_counts(parquet: pq.ParquetFile) -> PartCounts:
    """The counts that a part carries in its footer."""
    stored = json.loads((parquet.metadata.metadata or {}).get(COUNTS_KEY, b"{}"))
    return PartCounts(counts={}, labels={}, rejected={}) | stored


def check_pages(parquet: pq.ParquetFile) -> None:
    """Read every page, of which ``parquet`` was opened to verify the checksums; Parquet's own error if one is wrong."""
    for group in range(parquet.num_row_groups):
        parquet.read_row_group(group)


@contextlib.contextmanager
def clear_damage(uri: str) -> Iterator[None]:
    """``InputError`` naming ``uri`` where Parquet cannot read what is stored there; storage's own faults pass."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise InputError(f"{uri} is damaged: {one_line(error)}; `llambert repair` makes it again") from error
