"""A source cut into the rows of one part each, always at the same rows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.corpora import read_rows
from llambert.corpora.rows import Rows, SourceFile
from llambert.corpus_recipe import CorpusRecipe
from llambert.printable import escaped

_MAX_BYTES = 32 << 20


@dataclass
class Chunk:
    """Rows of one part: ``records`` from row ``first_row`` of the source on, and the malformed rows among them.

    ``is_last``: the source ends with it.
    """

    first_row: int
    tables: list[pa.Table] = field(default_factory=list)
    malformed: list[pa.Table] = field(default_factory=list)
    num_rows: int = 0
    num_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    class_names: dict[str, Sequence[str]] = field(default_factory=dict)
    is_last: bool = False

    def records(self, columns: list[str]) -> pa.Table:
        """The rows as one table of strings."""
        return pa.concat_tables([pa.schema([(name, pa.string()) for name in columns]).empty_table(), *self.tables])

    def malformed_rejects(self, source: SourceFile) -> pa.Table:
        """The rows of ``source`` that could not be read, as ``schema.SOURCE_REJECTS``; they have no id."""
        rows = pa.concat_tables([schema.SOURCE_REJECTS.empty_table(), *self.malformed])
        files = pc.fill_null(rows[schema.SOURCE], escaped(source.uri))
        return rows.set_column(rows.schema.get_field_index(schema.SOURCE), schema.SOURCE, files)

    def _add(self, table: pa.Table) -> None:
        self.tables.append(table)
        self.num_rows += table.num_rows
        self.num_bytes += int(_row_sizes(table).sum())


def _row_sizes(table: pa.Table) -> npt.NDArray[np.int64]:
    """Bytes of each row, which do not depend on the rows that it was read with: a part ends at the same row always."""
    sizes = np.full(table.num_rows, 4 * table.num_columns, np.int64)
    for column in table.columns:
        sizes += pc.fill_null(pc.binary_length(column), 0).to_numpy()
    return sizes


def _num_rows_that_fill(table: pa.Table, num_bytes: int) -> int:
    """How many rows of the table have so many bytes together; all of them if it has fewer."""
    return min(int(np.searchsorted(np.cumsum(_row_sizes(table)), num_bytes)) + 1, table.num_rows)


def read_chunks(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Chunk]:
    """The source's rows, a new chunk after ``rows_per_part`` rows or 32 MiB."""
    chunk = Chunk(0)
    for rows, are_last in _with_last(read_rows(source, corpus, columns)):
        table = rows.records
        chunk.malformed.append(rows.malformed)
        chunk.num_bytes += rows.malformed.nbytes
        chunk.counts.update(rows.counts)
        chunk.class_names.update(rows.class_names)
        while table.num_rows:
            num = min(corpus.rows_per_part - chunk.num_rows, _num_rows_that_fill(table, _MAX_BYTES - chunk.num_bytes))
            chunk._add(table.slice(0, num))
            table = table.slice(num)
            if chunk.num_rows == corpus.rows_per_part or chunk.num_bytes >= _MAX_BYTES:
                chunk.is_last = are_last and not table.num_rows
                yield chunk
                chunk = Chunk(chunk.first_row + chunk.num_rows, class_names=dict(rows.class_names))
        if chunk.num_bytes >= _MAX_BYTES:  # of malformed rows
            chunk.is_last = are_last
            yield chunk
            chunk = Chunk(chunk.first_row + chunk.num_rows)
    if chunk.num_rows or chunk.num_bytes or chunk.counts:
        chunk.is_last = True
        yield chunk


def _with_last(all_rows: Iterator[Rows]) -> Iterator[tuple[Rows, bool]]:
    """Each with whether it is the last."""
    rows = next(all_rows, None)
    while rows is not None:
        following = next(all_rows, None)
        yield rows, following is None
        rows = following
