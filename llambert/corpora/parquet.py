"""Parquet files as rows of strings, decoded by a process of bounded memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from llambert.corpora.limited import LIMIT_BYTES, NotStarted, read_limited
from llambert.corpora.opening import unreadable
from llambert.corpora.rows import Malformed, RowFault, Rows, malformed_rows, optional_columns, require_columns
from llambert.corpora.values import complete
from llambert.corpus_recipe import Columns, CorpusRecipe
from llambert.errors import InputError
from llambert.storage.locations import open_binary
from llambert.untrusted import parse_json

# Rows that are read, converted and passed on together, and how many bytes of strings they may then be; more are passed
# on as on the next line. A row over the last line's limit is malformed.
_BLOCKS = ((1024, 8 << 20), (32, 64 << 20), (1, 64 << 20))
_BUFFER_BYTES = 1 << 20


class Description(NamedTuple):
    """What the footer says: the columns, and the bytes of each row group."""

    names: list[str]
    group_bytes: list[int]


def describe(uri: str) -> Description:
    """The footer of a file; ``InputError`` where it cannot be read."""
    try:
        with _opened(uri) as stream:
            [description] = read_limited(_describe, stream)
            return description
    except MemoryError as error:
        raise _too_much(uri, str(error)) from error


def row_group_spans(uri: str, bytes_per_span: int) -> list[tuple[int, int]]:
    """A large file as spans of row groups of about so many bytes each, for several workers."""
    sizes = describe(uri).group_bytes
    spans, start, num_bytes = [], 0, 0
    for group, size in enumerate(sizes, start=1):
        num_bytes += size
        if num_bytes >= bytes_per_span or group == len(sizes):
            spans.append((start, group))
            start, num_bytes = group, 0
    return spans


def read_parquet(
    uri: str, columns: list[str], span: Sequence[int] | None = None, corpus: CorpusRecipe | None = None
) -> Iterator[Rows]:
    """The named columns of a file, or of a span of its row groups, as strings, some rows at a time.

    ``corpus`` says which of the columns the file may lack, and which one is the record ID. ``InputError`` for a file
    that needs more than ``LIMIT_BYTES`` of memory, whatever it claims to be.
    """
    num_read, reason = 0, ""
    optional, roles = (optional_columns(corpus), corpus.columns) if corpus else (set(), Columns())
    with _opened(uri) as stream:
        for place in range(len(_BLOCKS)):
            try:
                for rows in read_limited(_decode, stream, uri, columns, span, optional, roles, place, num_read):
                    num_read += rows.records.num_rows + rows.malformed.num_rows
                    yield rows
                return
            except MemoryError as error:  # a row of a few bytes may repeat megabytes: fewer at a time
                reason = str(error)
    raise _too_much(uri, reason)


def _too_much(uri: str, reason: str) -> InputError:
    return InputError(
        f"{uri}: cannot be read in {LIMIT_BYTES >> 30} GiB of memory ({reason}): it is damaged, or its pages are too "
        "large; write it again with smaller ones (pyarrow: write_table(…, write_batch_size=16))"
    )


@contextmanager
def _opened(uri: str) -> Iterator[IO[bytes]]:
    """The open file; any error but of memory while it is open becomes an ``InputError``."""
    try:
        with open_binary(uri) as stream:
            yield stream
    except (InputError, MemoryError, NotStarted):
        raise
    except Exception as error:  # each filesystem of fsspec has exceptions of its own
        raise unreadable(uri, error) from error


# In the process of bounded memory


@contextmanager
def _parsed(stream: IO[bytes]) -> Iterator[pq.ParquetFile]:
    with pq.ParquetFile(
        stream, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
    ) as parquet:
        yield parquet


def _describe(stream: IO[bytes]) -> Iterator[Description]:
    with _parsed(stream) as parquet:
        sizes = [parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups)]
        yield Description(parquet.schema_arrow.names, sizes)


def _decode(
    stream: IO[bytes],
    uri: str,
    columns: list[str],
    span: Sequence[int] | None,
    optional: set[str],
    roles: Columns,
    place: int,
    num_skipped: int,
) -> Iterator[Rows]:
    with _parsed(stream) as parquet:
        arrow_schema = parquet.schema_arrow
        missing = require_columns(columns, arrow_schema.names, uri, optional)
        present = [column for column in columns if column not in missing]
        class_names = _class_names(arrow_schema)
        groups = range(*span) if span else range(parquet.num_row_groups)
        row = sum(parquet.metadata.row_group(group).num_rows for group in range(groups.start))
        first = row + num_skipped
        while groups and row + (num := parquet.metadata.row_group(groups[0]).num_rows) <= first:
            row, groups = row + num, groups[1:]

        def blocks(table: pa.Table, place: int, row: int) -> Iterator[Rows]:
            try:
                rows = complete(table, columns, class_names, roles, uri)
            except MemoryError:
                rows = None
            if rows is not None and rows.records.nbytes <= _BLOCKS[place][1]:
                yield rows
            elif place == len(_BLOCKS) - 1:
                malformed = malformed_rows([Malformed(row + 1, None, RowFault.OVER_LONG_LINE)])
                yield Rows(complete(table.slice(1), columns, class_names, roles, uri).records, malformed)
            else:
                num = _BLOCKS[place + 1][0]
                for start in range(0, table.num_rows, num):
                    yield from blocks(table.slice(start, num), place + 1, row + start)

        for batch in parquet.iter_batches(_BLOCKS[place][0], row_groups=groups, columns=present, use_threads=False):
            table = pa.table(batch).select(present).slice(max(first - row, 0))
            row += batch.num_rows
            if table.num_rows:
                yield from blocks(table, place, row - table.num_rows)


def _class_names(arrow_schema: pa.Schema) -> dict[str, list[str]]:
    """The classes of columns of type ClassLabel, which the datasets library stores beside the schema."""
    try:
        info = parse_json((arrow_schema.metadata or {}).get(b"huggingface", b"{}"))
        features = info["info"]["features"]
        return {
            name: list(feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # written by something else
        return {}
