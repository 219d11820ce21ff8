"""Parquet, JSON Lines, CSV, TSV and plain text, compressed or not, on any filesystem, in bounded memory."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from llambert.corpora import parquet
from llambert.corpora.delimited import read_delimited, read_header
from llambert.corpora.encodings import is_undecodable
from llambert.corpora.opening import COMPRESSIONS, numbered_lines, open_text
from llambert.corpora.rows import (
    MISSING_COLUMN,
    Counted,
    Malformed,
    Row,
    RowFault,
    Rows,
    SourceFile,
    Sources,
    batched,
    has_surrogates,
    mark_lone_surrogates,
    require_columns,
    require_in_some_row,
)
from llambert.corpora.values import parse_object, text_of
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
from llambert.recipe import digest
from llambert.storage.reference import find_files

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
_ROWS_SEARCHED = _NAMES_FOUND = _NAME_CHARS = 1024  # of JSON Lines, whose every row may have other keys
PARQUET_BYTES_PER_UNIT = 256 << 20


def find(corpus: CorpusRecipe) -> Sources:
    """A file, a folder's files or those of a glob, in the order of their paths."""
    found = find_files(corpus.path)
    units: list[SourceFile] = []
    for name, info in found.files.items():
        uri, file_format = found.filesystem.unstrip_protocol(name), _format_of(name, corpus)
        size, inside = info["size"] or 0, found.inside(name)
        if file_format == "parquet" and size > PARQUET_BYTES_PER_UNIT:
            spans = parquet.row_group_spans(uri, PARQUET_BYTES_PER_UNIT)
            sizes = size // len(spans)
            units += [
                SourceFile(digest(inside, *span), uri, file_format, sizes, span=span, name=inside) for span in spans
            ]
        else:
            units.append(SourceFile(digest(inside), uri, file_format, size, name=inside))
    return Sources(units, found.num_hidden)


def _format_of(name: str, corpus: CorpusRecipe) -> str:
    if corpus.format != "auto":
        return corpus.format
    bare = name.lower()
    for ending in COMPRESSIONS:
        bare = bare.removesuffix(ending)
    for ending, known in _FORMATS.items():
        if bare.endswith(ending):
            return known
    raise InputError(f"corpus.format: {name} has none of the endings {', '.join(_FORMATS)}; set it in the recipe")


def read(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The named columns of a file in file order.

    ``InputError`` for a missing column, or a file that is not what its format says or ends too early.
    """
    match source.format:
        case "parquet":
            return parquet.read_parquet(source.uri, columns, source.span, corpus)
        case "jsonl":
            rows = _read_jsonl(source.uri, corpus, columns)
        case "text":
            rows = _read_text(source.uri, corpus, columns)
        case delimited:
            rows = read_delimited(source.uri, corpus, corpus.delimiter or _DELIMITERS[delimited], columns)
    return batched(rows, columns)


def column_names(source: SourceFile, corpus: CorpusRecipe) -> list[str]:
    """The columns a file has; of JSON Lines a thousand at most, those of its first thousand rows."""
    match source.format:
        case "parquet":
            return parquet.describe(source.uri).names
        case "text":
            return ["text"]
        case "jsonl":
            with open_text(source.uri, corpus.encoding) as text:
                lines = itertools.islice(numbered_lines(text), _ROWS_SEARCHED)
                rows = (parse_object(line[1])[0] for line in lines if not isinstance(line, Malformed))
                names = (name for row in rows if row for name in row if len(name) <= _NAME_CHARS)
                found: dict[str, None] = {}
                while len(found) < _NAMES_FOUND and (name := next(names, None)) is not None:
                    found[name] = None
                return list(found)
        case delimited:
            return read_header(source.uri, corpus, corpus.delimiter or _DELIMITERS[delimited])


def read_columns(path: str, columns: list[str]) -> pa.Table:
    """The named columns of a file as text; ``InputError`` if it cannot be read or has a malformed row."""
    corpus = CorpusRecipe(path=path)
    tables = [pa.table([pa.array([], pa.string())] * len(columns), names=columns)]
    counts: Counter[str] = Counter()
    for source in find(corpus).units:
        for rows in read(source, corpus, columns):
            for bad in rows.malformed.slice(0, 1).to_pylist():
                raise InputError(f"{source.uri}:{bad['line']}: {bad['reject_reason']}: {bad['text']!r:.200}")
            tables.append(rows.records)
            counts.update(rows.counts)
    table = pa.concat_tables(tables)
    require_in_some_row(columns, counts, table.num_rows, path)
    return table


def _read_text(uri: str, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Row | Malformed | Counted]:
    """A record a line; a blank line is a record without text."""
    require_columns(columns, ["text"], uri)
    with open_text(uri, corpus.encoding) as text:
        for line in numbered_lines(text):
            yield line if isinstance(line, Malformed) else [line[1].rstrip("\r\n")]


def _read_jsonl(uri: str, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Row | Malformed | Counted]:
    """An object a line. A key that a row lacks is null and counted: another row, or another file, may have it."""
    lacks = {column: Counted(f"{MISSING_COLUMN}{column}") for column in columns}
    num_objects = 0
    with open_text(uri, corpus.encoding) as text:
        for line in numbered_lines(text):
            if isinstance(line, Malformed):
                yield line
                continue
            number, content = line
            if not content.strip():
                yield Counted("num_blank_lines")
                continue
            row, reason = parse_object(content)
            if row is None or reason is not None:
                _refuse_json_array(uri, num_objects, content)
                yield Malformed(number, content, reason or RowFault.NOT_JSON)
                continue
            num_objects += 1
            found = [row.get(column) for column in columns]
            if float in map(type, found):
                row = parse_object(content, is_exact=True)[0] or row
                found = [row.get(column) for column in columns]
            if reason := _id_fault(row, corpus.columns.record_id):
                yield Malformed(number, content, reason)
                continue
            values = [text_of(value) for value in found]
            if "\\u" in content and not is_undecodable(content):
                # Half of a character that JSON spells out is not a fault of the file's encoding.
                values = [value and mark_lone_surrogates(value) for value in values]
            yield values
            if None in found:
                yield from (lacks[column] for column in columns if column not in row)


def _id_fault(row: dict[str, Any], record_id: str | None) -> RowFault | None:
    value = row.get(record_id) if record_id else None
    if isinstance(value, list | dict):
        return RowFault.NESTED_RECORD_ID
    return RowFault.GARBLED_RECORD_ID if isinstance(value, str) and has_surrogates(value) else None


def _refuse_json_array(uri: str, num_objects: int, line: str) -> None:
    """A whole file that is one JSON array or one object over many lines."""
    if num_objects == 0 and (line.strip() in "[{" or line.lstrip().startswith(("[{", "[["))):
        raise InputError(f"{uri}: expected a JSON object a line, found one value over the file; try jq -c '.[]'")
