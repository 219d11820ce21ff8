"""What every reader takes and gives: a bounded piece of a corpus' source, and rows of it as strings."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from llambert import schema
from llambert.errors import InputError
from llambert.names import escaped

MALFORMED = pa.schema(
    [
        pa.field(schema.SOURCE, pa.string()),
        pa.field(schema.LINE, pa.int64()),
        pa.field(schema.TEXT, pa.string()),
        pa.field(schema.REJECT_REASON, pa.string(), nullable=False),
    ]
)
"""Source rows that could not be read: file (null: the unit's own), line (1-based, null where there is none), the
row as far as it is known, and why."""

ENCODING_FAULTS = "num_encoding_faults"
"""Count of rows in which bytes that are not UTF-8 became U+FFFD."""

HIDDEN_FILES = "num_hidden_files"
"""Count of files that are not read because they, or a folder they are in, are hidden."""

Row = Sequence[str | None]
"""One value per asked column."""

_MAX_MALFORMED_CHARS = 2000
_ROWS_PER_BATCH = 8192
_CHARS_PER_BATCH = 8 << 20
# What Python makes of bytes that are not UTF-8 (errors="surrogateescape"), and JSON's own lone surrogates.
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class SourceFile:
    """A bounded piece of a corpus' source: one unit of work of ingest. Crosses to its worker as JSON.

    ``index`` is its place in the sorted list of units; part names and made record ids begin with it. What
    ``members`` (files below ``uri``) and ``span`` (from, to: row groups, bytes, shards) mean is the format's own;
    empty and null stand for the whole of ``uri``. ``members`` of at most some thousand names.
    """

    index: int
    uri: str
    format: str
    num_bytes: int
    members: Sequence[str] = ()
    span: Sequence[int] | None = None


@dataclass(frozen=True)
class Sources:
    """A corpus' units of work in a fixed order, and how many hidden files are beside them, which are not read."""

    units: list[SourceFile]
    num_hidden: int = 0

    @property
    def skipped(self) -> str:
        """For the screen: what is not read; empty if everything is."""
        return hidden_files_skipped(self.num_hidden)


def hidden_files_skipped(num: int) -> str:
    """So many hidden files in words; empty if there is none."""
    return f"{num:,} hidden file{'' if num == 1 else 's'} skipped" if num else ""


@dataclass(frozen=True)
class Rows:
    """Some thousand source rows in file order: all of a source's are the same whenever it is read.

    ``records``: the asked columns as strings. ``malformed``: rows that could not be read (``MALFORMED``);
    ingest counts them, keeps them in ``corpus_rejects`` and fails above ``corpus.max_malformed_share``.
    ``counts`` (``num_…``) go into the manifest of ``corpus``.
    """

    records: pa.Table
    malformed: pa.Table = field(default_factory=MALFORMED.empty_table)
    counts: Mapping[str, int] = field(default_factory=dict)


class Malformed(NamedTuple):
    """A row that could not be read. ``reason`` is an identifier: a reject_reason; ``source`` None: the unit's file."""

    line: int | None
    text: str | None
    reason: str
    source: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A line that is no row at all; ``count`` says of what (``num_blank_lines``)."""

    count: str


def malformed_rows(rows: Iterable[Malformed]) -> pa.Table:
    """Their ``MALFORMED`` table; a text keeps its first 2,000 characters."""
    rows = list(rows)
    columns = {
        schema.SOURCE: [row.source and escaped(row.source) for row in rows],
        schema.LINE: [row.line for row in rows],
        schema.TEXT: [None if row.text is None else _sound(row.text[:_MAX_MALFORMED_CHARS]) for row in rows],
        schema.REJECT_REASON: [row.reason for row in rows],
    }
    return pa.table(columns, schema=MALFORMED)


def batched(rows: Iterable[Row | Malformed | Skipped], columns: list[str]) -> Iterator[Rows]:
    """Rows of values, in the order of ``columns``, as tables of some thousand; surrogates become U+FFFD."""
    values: list[Row] = []
    malformed: list[Malformed] = []
    counts: Counter[str] = Counter()
    num_chars = 0
    for row in rows:
        if isinstance(row, Malformed):
            malformed.append(row)
            num_chars += min(len(row.text or ""), _MAX_MALFORMED_CHARS)
        elif isinstance(row, Skipped):
            counts[row.count] += 1
        else:
            values.append(row)
            num_chars += sum(len(value) for value in row if value)
        if len(values) + len(malformed) >= _ROWS_PER_BATCH or num_chars >= _CHARS_PER_BATCH:
            yield _rows(values, malformed, counts, columns)
            values, malformed, counts, num_chars = [], [], Counter(), 0
    if values or malformed or counts:
        yield _rows(values, malformed, counts, columns)


def _rows(values: list[Row], malformed: list[Malformed], counts: Counter[str], columns: list[str]) -> Rows:
    by_column = list(zip(*values, strict=True)) if values else [()] * len(columns)
    try:
        arrays = [pa.array(column, pa.string()) for column in by_column]
    except UnicodeEncodeError:  # a surrogate somewhere: value by value, so that only those change
        counts[ENCODING_FAULTS] += sum(any(value and _SURROGATE.search(value) for value in row) for row in values)
        arrays = [pa.array([value and _sound(value) for value in column], pa.string()) for column in by_column]
    return Rows(pa.table(arrays, columns), malformed_rows(malformed), counts)


def _sound(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


def require_columns(columns: list[str], present: list[str], uri: str) -> None:
    """``InputError`` for a column that is not there, or is there twice."""
    for column in columns:
        if column not in present:
            raise InputError(f"{uri}: no column {column!r}; it has {', '.join(map(repr, present))}")
        if present.count(column) > 1:
            raise InputError(f"{uri}: has {present.count(column)} columns {column!r}; rename one of them")
