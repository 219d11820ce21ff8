"""CSV and TSV: a header, then rows that may span lines. A faulty row is malformed and costs no other row."""

import csv
from collections import deque
from collections.abc import Iterator

from llambert.corpora.opening import MAX_LINE_CHARS, numbered_lines, open_text
from llambert.corpora.rows import (
    Malformed,
    Row,
    RowFault,
    Skipped,
    is_garbled,
    lacking,
    optional_columns,
    require_columns,
)
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError


def read_delimited(
    uri: str, corpus: CorpusRecipe, delimiter: str, columns: list[str]
) -> Iterator[Row | Malformed | Skipped]:
    """The named columns of each row; an empty field is null, and so is an optional column that the file lacks.

    A quoted field doubles the quotes in it (RFC 4180). A quote that is never closed costs its own line: reading
    resumes with the next. In a TSV file, which most programs write without quoting, a line whose quotes do not
    pair is taken as it stands. ``InputError`` for a header without the columns.
    """
    csv.field_size_limit(MAX_LINE_CHARS)
    header = corpus.header
    with open_text(uri, corpus.encoding) as text:
        lines = _Lines(numbered_lines(text))
        rows = _parse(lines, delimiter, len(header))
        names = list(header) or _header(uri, rows)
        missing = require_columns(columns, names, uri, optional_columns(corpus))
        places = [None if column in missing else names.index(column) for column in columns]
        absent = [Skipped(name) for name in lacking(missing, 1)]
        id_place = names.index(corpus.columns.record_id) if corpus.columns.record_id in columns else None
        for row in rows:
            if isinstance(row, Malformed | Skipped):
                yield row
                continue
            if id_place is not None and is_garbled(row[id_place]):
                yield Malformed(lines.taken[0][0], delimiter.join(row), RowFault.GARBLED_RECORD_ID)
                continue
            yield [None if place is None else row[place] or None for place in places]
            yield from absent


def read_header(uri: str, corpus: CorpusRecipe, delimiter: str) -> list[str]:
    """The column names of a file."""
    csv.field_size_limit(MAX_LINE_CHARS)
    with open_text(uri, corpus.encoding) as text:
        return list(corpus.header) or _header(uri, _parse(_Lines(numbered_lines(text)), delimiter, 0))


def _header(uri: str, rows: Iterator[list[str] | Malformed | Skipped]) -> list[str]:
    first = next((row for row in rows if not isinstance(row, Skipped)), None)
    if first is None:
        raise InputError(f"{uri}: is empty; expected a header with the names of its columns")
    if isinstance(first, Malformed):
        raise InputError(f"{uri}:{first.line}: the header cannot be read: {first.reason}")
    return first


class _Lines:
    """Lines for ``csv.reader``, which remember what a row took, so that a failed row can give lines back."""

    def __init__(self, source: Iterator[tuple[int, str] | Malformed]) -> None:
        self.source = source
        self.given_back: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []
        self.over_long: list[Malformed] = []
        self.are_over = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        self.are_over = True  # unless there is one more
        numbered = self.given_back.popleft() if self.given_back else next(self.source)
        while isinstance(numbered, Malformed):
            self.over_long.append(numbered)
            numbered = next(self.source)
        self.are_over = False
        self.taken.append(numbered)
        return numbered[1]

    def fault(self) -> RowFault:
        """Why the row taken is none: an open quote takes all to the end, or more than a field may hold."""
        is_open = self.are_over or sum(len(line) for _, line in self.taken) > MAX_LINE_CHARS
        return RowFault.UNTERMINATED_QUOTE if is_open else RowFault.BAD_QUOTES

    def give_back(self) -> None:
        """All but the first line of the row."""
        self.given_back.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _parse(lines: _Lines, delimiter: str, width: int) -> Iterator[list[str] | Malformed | Skipped]:
    """Rows of ``width`` fields; 0: as wide as the first, which is the header."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            yield from lines.over_long
            return
        except csv.Error:
            fault = lines.fault()
            lines.give_back()
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            number, line = lines.taken[0]
            yield _as_it_stands(line, delimiter, width) or Malformed(number, line, fault)
            continue
        if lines.over_long:
            yield from lines.over_long
            lines.over_long.clear()
        if not fields:
            yield Skipped("num_blank_lines")
        elif len(fields) == width or not width:
            width = len(fields)
            yield fields
        elif literal := _as_it_stands(lines.taken[0][1], delimiter, width):
            lines.give_back()
            yield literal
        else:
            text = "".join(line for _, line in lines.taken)
            yield Malformed(lines.taken[0][0], text, RowFault.WRONG_NUMBER_OF_FIELDS)


def _as_it_stands(line: str, delimiter: str, width: int) -> list[str] | None:
    """The fields of a TSV line with quotes as ordinary characters, if there are as many as there should be."""
    fields = line.rstrip("\r\n").split(delimiter)
    return fields if delimiter == "\t" and len(fields) == width else None
