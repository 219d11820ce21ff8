"""The input and output of every reader: a bounded piece of a corpus' source, and its rows as strings."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa

from llambert import schema
from llambert.corpora.encodings import is_undecodable
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
from llambert.printable import escaped

ENCODING_FAULTS = "num_encoding_faults"
"""Count of rows in which bytes that are no characters, or lone surrogates, became U+FFFD."""

UNDECODABLE = "num_undecodable"
"""Count of rows, malformed ones too, with bytes that are no characters of the file's encoding; lone surrogates that
JSON spells out are not among them."""

MISSING_COLUMN = "lacking."
"""Prefix of the count of rows without a column (JSON Lines: a key); the column's name follows."""

FILES_MISSING_COLUMN = "num_rows_of_files_without."
"""The same, for the rows of files whose header lacks the column."""

HIDDEN_FILES = "num_hidden_files"
"""Count of files that are not read because they or one of their folders are hidden."""

Row = Sequence[str | None]
"""One value per asked column."""

MAX_MALFORMED_CHARS = 2000
"""How much of a malformed row is kept."""
_NAMES_SHOWN, _NAME_CHARS = 30, 60
_ROWS_PER_BATCH = 8192
_CHARS_PER_BATCH = 8 << 20
# What decoding makes of bytes that are no characters, and JSON's own lone surrogates.
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class SourceFile:
    """A bounded piece of a corpus' source: one unit of work of ingest. Crosses to its worker as JSON.

    Part names and generated record IDs begin with ``key``: the ``digest`` of its file's path within the corpus, and of
    the part of the file that it is, so that it does not depend on other files. What ``members`` (at most some thousand
    files below ``uri``) and ``span`` (from, to: row groups, bytes, shards, rows) mean depends on the format; empty and
    null stand for the whole of ``uri``. ``name``: the path within the corpus of its file, or of the first of many.
    ``content``: a hash of what it holds now (``contents.py``), in part names, and in no record ID.
    """

    key: str
    uri: str
    format: str
    num_bytes: int
    members: Sequence[str] = ()
    span: Sequence[int] | None = None
    name: str = ""
    content: str = ""

    @property
    def part_prefix(self) -> str:
        """Begins the names of its parts, and of no other unit's or content's."""
        return f"part-{self.key}-{self.content}-" if self.content else f"part-{self.key}-"

    def part_name(self, number: int) -> str:
        """The name of its ``number``-th part."""
        return f"{self.part_prefix}{number:06d}.parquet"


@dataclass(frozen=True)
class Sources:
    """A corpus' units of work in a fixed order, and how many hidden files are beside them, which are not read.

    ``InputError`` if two units have one key.
    """

    units: list[SourceFile]
    num_hidden: int = 0

    def __post_init__(self) -> None:
        for number, source in enumerate(self.units):
            other = self.units[self._places.setdefault(source.key, number)]
            if other is not source:
                names = [one.members[0] if one.members else one.uri for one in (other, source)]
                raise InputError(
                    f"corpus.path: the paths of {names[0]} and {names[1]} have the same hash; rename one of them"
                )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {}

    def place(self, part_name: str) -> tuple[int, str]:
        """Sort key of a part: the position of its unit, then its name."""
        return self._places[part_name.split("-")[1]], part_name


def hidden_files_skipped(num: int) -> str:
    """How many hidden files were skipped, in words; empty if none was."""
    return f"{num:,} hidden file{'' if num == 1 else 's'} skipped" if num else ""


@dataclass(frozen=True)
class Rows:
    """Some thousand source rows in file order: all of a source's are the same whenever it is read.

    ``records``: the asked columns as strings. ``malformed``: rows that could not be read (``malformed_rows``);
    ingest counts them, keeps them in ``corpus_rejects`` and fails above ``corpus.max_malformed_share``.
    ``counts`` (``num_…``) go into the manifest of ``corpus``. ``class_names``: of a column whose integers stand for
    classes (Hugging Face's ``ClassLabel``), their names in order; ``records`` has the integers.
    """

    records: pa.Table
    malformed: pa.Table = field(default_factory=schema.SOURCE_REJECTS.empty_table)
    counts: Mapping[str, int] = field(default_factory=dict)
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


class RowFault(StrEnum):
    """Why a row of the source is rejected."""

    EXCLUDED = "excluded"  # by corpus.exclude or corpus.only: another kind of row, not a damaged record
    NULL_RECORD_ID = "null_record_id"
    NULL_TEXT = "null_text"
    EMPTY_TEXT = "empty_text"
    NULL_SPLIT = "null_split"
    # Malformed: the row cannot be read.
    BAD_CONCEPT_ID = "bad_concept_id"
    BAD_ENCODING = "bad_encoding"
    BAD_FILE_NAME = "bad_file_name"
    BAD_QUOTES = "bad_quotes"
    GARBLED_RECORD_ID = "garbled_record_id"  # an ID that would change: two IDs might become one
    NESTED_RECORD_ID = "nested_record_id"
    NOT_AN_OBJECT = "not_an_object"
    NOT_A_FILE = "not_a_file"
    NOT_JSON = "not_json"
    OTHER_ENCODING = "other_encoding"
    OVER_LONG_LINE = "over_long_line"
    UNKNOWN_CONCEPT = "unknown_concept"
    UNKNOWN_LABEL = "unknown_label"
    UNREADABLE_FILE = "unreadable_file"
    UNTERMINATED_QUOTE = "unterminated_quote"
    WRONG_NUMBER_OF_FIELDS = "wrong_number_of_fields"


class Malformed(NamedTuple):
    """A row that could not be read; ``source`` None: the unit's file."""

    line: int | None
    text: str | None
    reason: RowFault
    source: str | None = None


@dataclass(frozen=True)
class Counted:
    """An occurrence to count that is not a row: a blank line (``num_blank_lines``), a column that a row lacks."""

    count: str


def malformed_rows(rows: Iterable[Malformed]) -> pa.Table:
    """Their ``schema.SOURCE_REJECTS`` table, with a null source for the unit's file. Texts keep 2,000 characters."""
    rows = list(rows)
    columns = {
        schema.RECORD_ID: [""] * len(rows),
        schema.SOURCE: [row.source and escaped(row.source) for row in rows],
        schema.LINE: [row.line for row in rows],
        schema.TEXT: [
            None if row.text is None else _replace_surrogates(row.text[:MAX_MALFORMED_CHARS]) for row in rows
        ],
        schema.REJECT_REASON: [row.reason for row in rows],
    }
    return pa.table(columns, schema=schema.SOURCE_REJECTS)


def batched(rows: Iterable[Row | Malformed | Counted], columns: list[str]) -> Iterator[Rows]:
    """Tables of some thousand rows from rows of values in the order of ``columns``; surrogates become U+FFFD."""
    values: list[Row] = []
    malformed: list[Malformed] = []
    counts: Counter[str] = Counter()
    num_chars = 0
    for row in rows:
        if isinstance(row, Malformed):
            text = row.text and row.text[:MAX_MALFORMED_CHARS]
            malformed.append(row._replace(text=text))
            counts[UNDECODABLE] += is_undecodable(row.text or "")
            num_chars += len(text or "")
        elif isinstance(row, Counted):
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
        counts[ENCODING_FAULTS] += sum(any(value and has_surrogates(value) for value in row) for row in values)
        counts[UNDECODABLE] += sum(any(value and is_undecodable(value) for value in row) for row in values)
        arrays = [
            pa.array([value and _replace_surrogates(value) for value in column], pa.string()) for column in by_column
        ]
    return Rows(pa.table(arrays, columns), malformed_rows(malformed), counts)


def has_surrogates(text: str) -> bool:
    """Whether a text has lone surrogates, which storing would change: undecodable bytes, or JSON's escapes."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def mark_lone_surrogates(text: str) -> str:
    """The text with every lone surrogate replaced by U+D800, which no decoder produces: not ``is_undecodable``."""
    return text if text.isascii() else _SURROGATE.sub("\ud800", text)


def _replace_surrogates(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


def require_columns(
    columns: Sequence[str], present: Sequence[str], uri: str, optional: Collection[str] = ()
) -> list[str]:
    """The missing columns that are ``optional``; ``InputError`` if another is missing, or if one is duplicated."""
    for column in columns:
        if column not in present and column not in optional:
            raise InputError(f"{uri}: no column {column!r}; it has {quoted_names(present)}{_encoding_hint(present)}")
        if present.count(column) > 1:
            raise InputError(f"{uri}: has {present.count(column)} columns {column!r}; rename one of them")
    return [column for column in columns if column not in present]


def quoted_names(names: Sequence[str]) -> str:
    """Names of columns for a message, shortened: a file may have a million of them, or one of a million characters."""
    shown = ", ".join(repr(shortened(_replace_surrogates(name), _NAME_CHARS)) for name in names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN:,} more"


def shortened(text: str, num_chars: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= num_chars else f"{text[: num_chars - 1]}…"


def _encoding_hint(names: Sequence[str]) -> str:
    is_text = not any("\0" in name or has_surrogates(name) for name in names)
    return "" if is_text else ", which is not text in the expected encoding: set corpus.encoding"


def missing_column_counts(columns: Sequence[str], num_rows: int) -> dict[str, int]:
    """The counts for ``num_rows`` rows of a file whose header lacks these columns."""
    return {f"{prefix}{column}": num_rows for column in columns for prefix in (MISSING_COLUMN, FILES_MISSING_COLUMN)}


def require_in_some_row(columns: Sequence[str], counts: Mapping[str, int], num_rows: int, path: str) -> None:
    """``InputError`` for a column that is missing in all ``num_rows`` rows."""
    for column in columns:
        if num_rows and counts.get(f"{MISSING_COLUMN}{column}", 0) >= num_rows:
            raise InputError(f"{path}: no column {column!r} in any of its {num_rows:,} rows")


def optional_columns(corpus: CorpusRecipe) -> set[str]:
    """Columns that a file may lack if others have them: the gold label and the kept columns, which are null then."""
    columns = corpus.columns
    required = {columns.text, columns.record_id, columns.split, *corpus.exclude, *corpus.only}
    return {name for name in (columns.gold_label, *columns.keep) if name} - required
