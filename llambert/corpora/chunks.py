"""A source cut into the rows of one part each, always at the same rows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.corpora import read_rows
from llambert.corpora.rows import SourceFile
from llambert.corpus_recipe import CorpusRecipe
from llambert.printable import escaped

_MAX_BYTES = 32 << 20


@dataclass
class Chunk:
    """Rows of one part: ``records`` from row ``first_row`` of the source on, and the malformed rows among them."""

    first_row: int
    tables: list[pa.Table] = field(default_factory=list)
    malformed: list[pa.Table] = field(default_factory=list)
    num_rows: int = 0
    num_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    class_names: dict[str, Sequence[str]] = field(default_factory=dict)

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
        self.num_bytes += table.nbytes  # of these rows only, even if buffers are shared


def read_chunks(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Chunk]:
    """The source's rows, a new chunk after ``rows_per_part`` rows or 32 MiB."""
    chunk = Chunk(0)
    for rows in read_rows(source, corpus, columns):
        table = rows.records
        chunk.malformed.append(rows.malformed)
        chunk.num_bytes += rows.malformed.nbytes
        chunk.counts.update(rows.counts)
        chunk.class_names.update(rows.class_names)
        while chunk.num_rows + table.num_rows >= corpus.rows_per_part:
            num_missing = corpus.rows_per_part - chunk.num_rows
            chunk._add(table.slice(0, num_missing))
            table = table.slice(num_missing)
            yield chunk
            chunk = Chunk(chunk.first_row + corpus.rows_per_part, class_names=dict(rows.class_names))
        chunk._add(table)
        if chunk.num_bytes >= _MAX_BYTES:
            yield chunk
            chunk = Chunk(chunk.first_row + chunk.num_rows)
    if chunk.num_rows or chunk.num_bytes or chunk.counts:
        yield chunk
