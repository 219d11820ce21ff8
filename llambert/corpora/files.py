"""Parquet, JSON Lines, CSV, TSV and plain text, compressed or not, on any filesystem, in bounded memory."""

import json
from collections.abc import Callable, Iterator
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from llambert.corpora.rows import Rows, SourceFile
from llambert.errors import InputError, one_line
from llambert.recipe import CorpusRecipe
from llambert.reference import find_files

_FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
}
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
_ROWS_PER_READ = 8192


def _compression(uri: str) -> str | None:
    """fsspec's name of the compression that the file's ending says."""
    return next((name for ending, name in _COMPRESSIONS.items() if uri.endswith(ending)), None)


def find(corpus: CorpusRecipe) -> list[SourceFile]:
    """The corpus' files in the order of their paths: a file, a folder's files, or a glob; local or remote."""
    filesystem, files = find_files(corpus.path)
    visible = [name for name in files if not name.rsplit("/", 1)[-1].startswith((".", "_"))]
    if not visible:
        raise InputError(f"corpus.path: no file at {corpus.path} but hidden ones")
    return [
        SourceFile(index, filesystem.unstrip_protocol(name), _format_of(name, corpus), files[name]["size"] or 0)
        for index, name in enumerate(visible)
    ]


def _format_of(name: str, corpus: CorpusRecipe) -> str:
    if corpus.format != "auto":
        return corpus.format
    bare = name
    for ending in _COMPRESSIONS:
        bare = bare.removesuffix(ending)
    for ending, known in _FORMATS.items():
        if bare.endswith(ending):
            return known
    raise InputError(
        f"corpus.format: {name} has none of the endings {', '.join(_FORMATS)}; say the format in the recipe"
    )


def read(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The named columns of a file as strings, some thousand rows at a time, in file order.

    Bytes that are not UTF-8 become U+FFFD. ``InputError`` for a missing column, or a file that is not what
    its format says or ends too early.
    """
    try:
        for table in _READERS[source.format](source, columns):
            yield Rows(table)
    except (pa.ArrowInvalid, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{source.uri}: cannot be read as {source.format}: {one_line(error)}") from error


def _open(source: SourceFile) -> BinaryIO:
    return fsspec.open(source.uri, "rb", compression=_compression(source.uri)).open()


def _require(columns: list[str], present: list[str], source: SourceFile) -> None:
    for column in columns:
        if column not in present:
            raise InputError(f"{source.uri}: no column {column!r}; it has {', '.join(map(repr, present))}")


def _read_parquet(source: SourceFile, columns: list[str]) -> Iterator[pa.Table]:
    with _open(source) as stream:
        parquet = pq.ParquetFile(stream)
        _require(columns, parquet.schema_arrow.names, source)
        for batch in parquet.iter_batches(_ROWS_PER_READ, columns=columns):
            yield _as_strings(pa.table(batch).select(columns))


def _read_delimited(source: SourceFile, columns: list[str]) -> Iterator[pa.Table]:
    delimiter = "\t" if source.format == "tsv" else ","
    with _open(source) as stream:
        reader = pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(block_size=4 << 20),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.binary()),
                strings_can_be_null=True,
                null_values=[""],
                quoted_strings_can_be_null=False,
            ),
        )
        _require(columns, reader.schema.names, source)
        for batch in reader:
            yield _as_strings(pa.table(batch).select(columns))


def _read_jsonl(source: SourceFile, columns: list[str]) -> Iterator[pa.Table]:
    rows: list[dict[str, str | None]] = []
    seen: set[str] = set()
    with _open(source) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8", errors="replace"))
            except json.JSONDecodeError as error:
                raise InputError(f"{source.uri}:{number}: not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise InputError(f"{source.uri}:{number}: expected an object, found {type(row).__name__}")
            seen.update(row)
            rows.append({column: _text_of(row.get(column)) for column in columns})
            if len(rows) == _ROWS_PER_READ:
                _require(columns, sorted(seen), source)
                yield _string_table(rows, columns)
                rows = []
    if rows:
        _require(columns, sorted(seen), source)
        yield _string_table(rows, columns)


def _read_text(source: SourceFile, columns: list[str]) -> Iterator[pa.Table]:
    _require(columns, ["text"], source)
    rows: list[dict[str, str | None]] = []
    with _open(source) as stream:
        for line in stream:
            rows.append({"text": line.decode("utf-8", errors="replace").rstrip("\r\n")})
            if len(rows) == _ROWS_PER_READ:
                yield _string_table(rows, columns)
                rows = []
    if rows:
        yield _string_table(rows, columns)


_READERS: dict[str, Callable[[SourceFile, list[str]], Iterator[pa.Table]]] = {
    "parquet": _read_parquet,
    "csv": _read_delimited,
    "tsv": _read_delimited,
    "jsonl": _read_jsonl,
    "text": _read_text,
}


def _text_of(value: object) -> str | None:
    if value is None or isinstance(value, str):
        # A lone surrogate is legal in JSON and no Unicode text: it becomes U+FFFD like any broken byte.
        return value if value is None else value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False)


def _string_table(rows: list[dict[str, str | None]], columns: list[str]) -> pa.Table:
    return pa.table({column: pa.array([row[column] for row in rows], pa.string()) for column in columns})


def _as_strings(table: pa.Table) -> pa.Table:
    return pa.table({name: _as_string(table[name]) for name in table.column_names})


def _as_string(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        try:
            return pc.cast(column, pa.string())
        except pa.ArrowInvalid:  # not UTF-8 somewhere: value by value, so that only the broken ones change
            decoded = [v if v is None else v.decode("utf-8", errors="replace") for v in column.to_pylist()]
            return pa.chunked_array([pa.array(decoded, pa.string())])
    if pa.types.is_nested(column.type):
        return pa.chunked_array([pa.array([_text_of(v) for v in column.to_pylist()], pa.string())])
    return pc.cast(column, pa.string())
