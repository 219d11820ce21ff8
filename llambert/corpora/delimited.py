"""CSV and TSV: a header, then rows that may span lines. A faulty row is malformed; no other row is lost."""

import csv
from collections import deque
from collections.abc import Iterator

from llambert.corpora.opening import MAX_LINE_CHARS, numbered_lines, open_text
from llambert.corpora.rows import (
    Counted,
    Malformed,
    Row,
    RowFault,
    has_surrogates,
    missing_column_counts,
    optional_columns,
    require_columns,
)
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError

_CHARS_PER_LINE = 100  # what a line takes in memory beside its characters


def read_delimited(
    uri: str, corpus: CorpusRecipe, delimiter: str, columns: list[str]
) -> Iterator[Row | Malformed | Counted]:
    """The named columns of each row; an empty field is null, and so is an optional column that the file lacks.

    A quoted field doubles the quotes in it (RFC 4180). A quote that is never closed costs its own line: reading
    resumes with the next. In a TSV file, which most programs write without quoting, a line whose quotes do not
    pair is read literally. ``InputError`` for a header without the columns.
    """
    csv.field_size_limit(MAX_LINE_CHARS)
    header = corpus.header
    with open_text(uri, corpus.encoding) as text:
        lines = _LineBuffer(numbered_lines(text))
        rows = _parse(lines, delimiter, len(header))
        names = list(header) or _header(uri, rows)
        missing = require_columns(columns, names, uri, optional_columns(corpus))
        places = [None if column in missing else names.index(column) for column in columns]
        absent = [Counted(name) for name in missing_column_counts(missing, 1)]
        id_place = names.index(corpus.columns.record_id) if corpus.columns.record_id in columns else None
        for row in rows:
            if isinstance(row, Malformed | Counted):
                yield row
                continue
            if id_place is not None and has_surrogates(row[id_place]):
                yield Malformed(lines.consumed[0][0], delimiter.join(row), RowFault.GARBLED_RECORD_ID)
                continue
            yield [None if place is None else row[place] or None for place in places]
            yield from absent


def read_header(uri: str, corpus: CorpusRecipe, delimiter: str) -> list[str]:
    """The column names of a file."""
    csv.field_size_limit(MAX_LINE_CHARS)
    with open_text(uri, corpus.encoding) as text:
        return list(corpus.header) or _header(uri, _parse(_LineBuffer(numbered_lines(text)), delimiter, 0))


def _header(uri: str, rows: Iterator[list[str] | Malformed | Counted]) -> list[str]:
    first = next((row for row in rows if not isinstance(row, Counted)), None)
    if first is None:
        raise InputError(f"{uri}: is empty; expected a header with the names of its columns")
    if isinstance(first, Malformed):
        raise InputError(f"{uri}:{first.line}: the header cannot be read: {first.reason}")
    return first


class _LineBuffer:
    """Lines for ``csv.reader`` that records those consumed by a row, so that a failed row can push lines back."""

    def __init__(self, source: Iterator[tuple[int, str] | Malformed]) -> None:
        self.source = source
        self.pushed_back: deque[tuple[int, str]] = deque()
        self.consumed: list[tuple[int, str]] = []
        self.too_long: list[Malformed] = []
        self.is_exhausted = False
        self.num_chars = 0

    def __iter__(self) -> "_LineBuffer":
        return self

    def __next__(self) -> str:
        self.is_exhausted = True  # unless there is one more
        numbered = self.pushed_back.popleft() if self.pushed_back else next(self.source)
        while isinstance(numbered, Malformed):
            self.too_long.append(numbered)
            numbered = next(self.source)
        self.is_exhausted = False
        self.consumed.append(numbered)
        self.num_chars += len(numbered[1]) + _CHARS_PER_LINE
        if self.num_chars > MAX_LINE_CHARS and len(self.consumed) > 1:
            raise csv.Error("the row is too long")
        return numbered[1]

    def begin(self) -> None:
        """A new row."""
        self.consumed.clear()
        self.num_chars = 0

    def fault(self) -> RowFault:
        """Why the row failed: a quote that is never closed runs to the end of the file, or past the longest field."""
        is_open = self.is_exhausted or self.num_chars > MAX_LINE_CHARS
        return RowFault.UNTERMINATED_QUOTE if is_open else RowFault.BAD_QUOTES

    def push_back(self) -> None:
        """Return all but the first line of the row to the source."""
        self.pushed_back.extendleft(reversed(self.consumed[1:]))
        del self.consumed[1:]


def _parse(lines: _LineBuffer, delimiter: str, width: int) -> Iterator[list[str] | Malformed | Counted]:
    """Rows of ``width`` fields; 0: as wide as the first, which is the header."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin()
        try:
            fields = next(reader)
        except StopIteration:
            yield from lines.too_long
            return
        except csv.Error:
            fault = lines.fault()
            lines.push_back()
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            number, line = lines.consumed[0]
            yield _split_unquoted(line, delimiter, width) or Malformed(number, line, fault)
            continue
        if lines.too_long:
            yield from lines.too_long
            lines.too_long.clear()
        if not fields:
            yield Counted("num_blank_lines")
        elif len(fields) == width or not width:
            width = len(fields)
            yield fields
        elif literal := _split_unquoted(lines.consumed[0][1], delimiter, width):
            lines.push_back()
            yield literal
        else:
            text = "".join(line for _, line in lines.consumed)
            yield Malformed(lines.consumed[0][0], text, RowFault.WRONG_NUMBER_OF_FIELDS)


def _split_unquoted(line: str, delimiter: str, width: int) -> list[str] | None:
    """The fields of a TSV line with quotes as ordinary characters, if there are as many as there should be."""
    fields = line.rstrip("\r\n").split(delimiter)
    return fields if delimiter == "\t" and len(fields) == width else None
