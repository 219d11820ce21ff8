"""What every reader takes and gives: a bounded piece of a corpus' source, and rows of it as strings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from llambert import schema

MALFORMED = pa.schema(
    [
        pa.field(schema.LINE, pa.int64()),
        pa.field(schema.TEXT, pa.string()),
        pa.field(schema.REJECT_REASON, pa.string(), nullable=False),
    ]
)
"""Source rows that could not be read: line (1-based, null where the source has none), the row as far as it is
known, and why."""

_MAX_MALFORMED_CHARS = 2000


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
class Rows:
    """Some thousand source rows in file order: all of a source's are the same whenever it is read.

    ``records``: the asked columns as strings. ``malformed``: rows that could not be read (``MALFORMED``);
    ingest counts them, keeps them in ``corpus_rejects`` and fails above ``corpus.max_malformed_share``.
    ``num_encoding_faults``: rows in which bytes that are not UTF-8 became U+FFFD.
    """

    records: pa.Table
    malformed: pa.Table = field(default_factory=MALFORMED.empty_table)
    num_encoding_faults: int = 0


def malformed_rows(rows: Iterable[tuple[int | None, str | None, str]]) -> pa.Table:
    """A ``MALFORMED`` table of (line, text, reject_reason); the reason as one_word_names, the text cut to 2,000."""
    lines, texts, reasons = zip(*rows, strict=True) if (rows := list(rows)) else ((), (), ())
    cut = [text if text is None else text[:_MAX_MALFORMED_CHARS] for text in texts]
    return pa.table([pa.array(lines, pa.int64()), pa.array(cut, pa.string()), reasons], schema=MALFORMED)
