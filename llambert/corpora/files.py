"""Parquet, JSON Lines, CSV, TSV and plain text, compressed or not, on any filesystem, in bounded memory."""

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llambert.corpora.delimited import read_delimited, read_header
from llambert.corpora.opening import COMPRESSIONS, numbered_lines, open_text, unreadable
from llambert.corpora.rows import (
    ENCODING_FAULTS,
    Malformed,
    Row,
    Rows,
    Skipped,
    SourceFile,
    Sources,
    batched,
    require_columns,
)
from llambert.errors import InputError
from llambert.locations import open_binary
from llambert.recipe import CorpusRecipe
from llambert.reference import find_files

_FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "text",
}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_ROWS_PER_READ = 1024
_BUFFER_BYTES = 1 << 20
_PARQUET_BYTES_PER_UNIT = 256 << 20


def find(corpus: CorpusRecipe) -> Sources:
    """A file, a folder's files or those of a glob, in the order of their paths."""
    filesystem, files, num_hidden = find_files(corpus.path)
    units: list[SourceFile] = []
    for name in files:
        uri, file_format, size = filesystem.unstrip_protocol(name), _format_of(name, corpus), files[name]["size"] or 0
        spans = row_group_spans(uri) if file_format == "parquet" and size > _PARQUET_BYTES_PER_UNIT else [None]
        units += [
            SourceFile(len(units) + number, uri, file_format, size // len(spans), span=span)
            for number, span in enumerate(spans)
        ]
    return Sources(units, num_hidden)


def row_group_spans(uri: str) -> list[tuple[int, int]]:
    """A large Parquet file as spans of row groups of some hundred megabytes each, for several workers."""
    with _open_parquet(uri) as parquet:
        sizes = [parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups)]
    spans, start, num_bytes = [], 0, 0
    for group, size in enumerate(sizes, start=1):
        num_bytes += size
        if num_bytes >= _PARQUET_BYTES_PER_UNIT or group == len(sizes):
            spans.append((start, group))
            start, num_bytes = group, 0
    return spans


def _format_of(name: str, corpus: CorpusRecipe) -> str:
    if corpus.format != "auto":
        return corpus.format
    bare = name
    for ending in COMPRESSIONS:
        bare = bare.removesuffix(ending)
    for ending, known in _FORMATS.items():
        if bare.endswith(ending):
            return known
    raise InputError(
        f"corpus.format: {name} has none of the endings {', '.join(_FORMATS)}; say the format in the recipe"
    )


def read(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The named columns of a file in file order.

    ``InputError`` for a missing column, or a file that is not what its format says or ends too early.
    """
    match source.format:
        case "parquet":
            return read_parquet(source.uri, columns, source.span)
        case "jsonl":
            rows = _read_jsonl(source.uri, columns)
        case "text":
            rows = _read_text(source.uri, columns)
        case delimited:
            rows = read_delimited(source.uri, corpus.delimiter or _DELIMITERS[delimited], columns, corpus.header)
    return batched(rows, columns)


def column_names(source: SourceFile, corpus: CorpusRecipe) -> list[str]:
    """The columns a file has; of JSON Lines those of its first thousand rows."""
    match source.format:
        case "parquet":
            with _open_parquet(source.uri) as parquet:
                return parquet.schema_arrow.names
        case "text":
            return ["text"]
        case "jsonl":
            with open_text(source.uri) as text:
                lines = itertools.islice(numbered_lines(text), _ROWS_PER_READ)
                rows = (_parse_object(line[1])[0] for line in lines if not isinstance(line, Malformed))
                return list(dict.fromkeys(name for row in rows if row for name in row))
        case delimited:
            return read_header(source.uri, corpus.delimiter or _DELIMITERS[delimited])


def _parse_object(line: str) -> tuple[dict[str, Any] | None, str | None]:
    """The JSON object of a line, or why it is none."""
    try:
        row = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):  # ValueError: also an integer of more than 4,300 digits
        return None, "not_json"
    return (row, None) if isinstance(row, dict) else (None, "not_an_object")


def _read_text(uri: str, columns: list[str]) -> Iterator[Row | Malformed | Skipped]:
    """A record a line; a blank line is a record without text."""
    require_columns(columns, ["text"], uri)
    with open_text(uri) as text:
        for line in numbered_lines(text):
            yield line if isinstance(line, Malformed) else [line[1].rstrip("\r\n")]


def _read_jsonl(uri: str, columns: list[str]) -> Iterator[Row | Malformed | Skipped]:
    """An object a line. A key that a row lacks is null; one that the first thousand rows lack is missing."""
    seen: dict[str, None] = {}
    num_objects = 0
    with open_text(uri) as text:
        for line in numbered_lines(text):
            if isinstance(line, Malformed):
                yield line
                continue
            number, content = line
            if not content.strip():
                yield Skipped("num_blank_lines")
                continue
            row, reason = _parse_object(content)
            if row is None or reason is not None:
                _refuse_json_array(uri, num_objects, content)
                yield Malformed(number, content, reason or "not_json")
                continue
            if num_objects <= _ROWS_PER_READ:
                seen.update(dict.fromkeys(row))
            num_objects += 1
            if num_objects == _ROWS_PER_READ:
                require_columns(columns, list(seen), uri)
            yield [text_of(row.get(column)) for column in columns]
    if 0 < num_objects < _ROWS_PER_READ:
        require_columns(columns, list(seen), uri)


def _refuse_json_array(uri: str, num_objects: int, line: str) -> None:
    """A whole file that is one JSON array or one object over many lines."""
    if num_objects == 0 and (line.strip() in "[{" or line.lstrip().startswith(("[{", "[["))):
        raise InputError(f"{uri}: expected a JSON object a line, found one value over the file; try jq -c '.[]'")


@contextmanager
def _open_parquet(uri: str) -> Iterator[pq.ParquetFile]:
    """``InputError`` for whatever goes wrong while it is open."""
    try:
        with (
            open_binary(uri) as stream,
            pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES) as parquet,
        ):
            yield parquet
    except InputError:
        raise
    except Exception as error:  # Arrow and each filesystem of fsspec have exceptions of their own
        raise unreadable(uri, error) from error


def read_parquet(uri: str, columns: list[str], span: Sequence[int] | None = None) -> Iterator[Rows]:
    """The named columns of a Parquet file, or of a span of its row groups, as strings, a page at a time."""
    with _open_parquet(uri) as parquet:
        require_columns(columns, parquet.schema_arrow.names, uri)
        groups = range(*span) if span else None
        for batch in parquet.iter_batches(_ROWS_PER_READ, row_groups=groups, columns=columns):
            yield rows_of_table(pa.table(batch).select(columns))


def rows_of_table(table: pa.Table) -> Rows:
    """The columns, of any type, as strings; structures as JSON, not-a-number as null."""
    arrays, faulty_rows = [], set()
    for name in table.column_names:
        array, faulty = _as_text(table[name])
        arrays.append(array)
        faulty_rows.update(faulty)
    return Rows(pa.table(arrays, table.column_names), counts={ENCODING_FAULTS: len(faulty_rows)} if faulty_rows else {})


def _as_text(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """The column as strings, and the rows whose bytes were not UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = pc.cast(column, pa.large_binary())  # what a file calls a string need not be UTF-8
    elif pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
    elif pa.types.is_nested(kind):
        return pa.chunked_array([pa.array(map(text_of, column.to_pylist()), pa.string())]), []
    try:
        return pc.cast(column, pa.string()), []
    except pa.ArrowInvalid:  # not UTF-8 somewhere: value by value, so that only the broken ones change
        values = column.to_pylist()
        texts = [value if value is None else value.decode("utf-8", errors="replace") for value in values]
        faulty = [row for row, text in enumerate(texts) if text is not None and text.encode() != values[row]]
        return pa.chunked_array([pa.array(texts, pa.string())]), faulty
    except pa.ArrowNotImplementedError:  # durations and the like
        return pa.chunked_array([pa.array(map(text_of, column.to_pylist()), pa.string())]), []


def text_of(value: Any) -> str | None:
    """A value of a JSON object, or of any Python reader, as text; structures as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
