"""Values of any type as text, exactly: two values that differ never become the same text.

An integral floating-point number is written as an integer (``1.0`` is ``1``), a UUID in its usual form, a date or
timestamp as in ISO 8601, a decimal with the digits it is stored with, bytes of a fixed size as text if they are
printable UTF-8 and in hexadecimal otherwise, a list or structure as JSON; not-a-number is null.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llambert.corpora.rows import ENCODING_FAULTS, UNDECODABLE, RowFault, Rows, missing_column_counts
from llambert.corpus_recipe import Columns
from llambert.errors import InputError, one_line

# Bits of the integers that a floating-point type represents exactly.
_EXACT_BITS = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}
_MAX_DIGITS = 100  # of a JSON number; a longer one stays as it is written


class _LiteralFloat(float):
    """A number of a JSON file that keeps its literal, which may have more digits than a float."""

    literal: str

    def __new__(cls, literal: str) -> "_LiteralFloat":
        number = super().__new__(cls, literal)
        number.literal = literal
        return number


# Made once: json.loads would make one for each line.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
_EXACT_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_LiteralFloat)


def parse_object(line: str, is_exact: bool = False) -> tuple[dict[str, Any] | None, RowFault | None]:
    """The JSON object of a line, or the reason why it is not one; a not-a-number is null.

    ``is_exact``: its numbers keep their literals, which takes longer.
    """
    try:
        row = (_EXACT_DECODER if is_exact else _DECODER).decode(line)
    except (ValueError, RecursionError):  # ValueError: also an integer of more than 4,300 digits
        return None, RowFault.NOT_JSON
    return (row, None) if isinstance(row, dict) else (None, RowFault.NOT_AN_OBJECT)


def text_of(value: Any) -> str | None:
    """A value of a JSON object, or of any Python reader, as text; structures as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, _LiteralFloat):
        return _number_as_text(value.literal)
    return json.dumps(value, ensure_ascii=False, default=str)


def _number_as_text(literal: str) -> str:
    number = Decimal(literal)
    if abs(number.adjusted()) > _MAX_DIGITS or number != number.to_integral_value():
        return literal
    return str(int(number))


def rows_of_table(table: pa.Table, columns: Columns, uri: str) -> Rows:
    """The columns of a table, of any type, as strings.

    ``InputError`` for a record ID of a type that does not identify (a list, a float too large to be exact), and for
    bytes that are not text as a record ID or a kept column.
    """
    arrays, undecodable = [], set()
    for name in table.column_names:
        _require_valid_record_id(table[name], name, columns, uri)
        array, faulty = _as_text(table[name], name, columns, uri)
        arrays.append(array)
        undecodable.update(faulty)
    num = len(undecodable)
    counts = {ENCODING_FAULTS: num, UNDECODABLE: num} if num else {}
    return Rows(pa.table(arrays, table.column_names), counts=counts)


def complete(
    table: pa.Table, columns: list[str], class_names: Mapping[str, Sequence[str]], roles: Columns, uri: str
) -> Rows:
    """A table as rows of strings with all of ``columns``: null where it lacks one."""
    rows = rows_of_table(table, roles, uri)
    missing = [column for column in columns if column not in table.column_names]
    records = rows.records
    for column in missing:
        records = records.append_column(column, pa.nulls(records.num_rows, pa.string()))
    counts = {**rows.counts, **missing_column_counts(missing, table.num_rows)}
    return Rows(records.select(columns), counts=counts, class_names=class_names)


def _require_valid_record_id(column: pa.ChunkedArray, name: str, columns: Columns, uri: str) -> None:
    if name != columns.record_id:
        return
    column = _without_storage_types(column)
    if pa.types.is_nested(column.type):
        raise InputError(
            f"{uri}: corpus.columns.record_id: column {name!r} holds values of type {column.type}; a record ID must be "
            "a single value: name another column, or null"
        )
    if pa.types.is_floating(column.type):
        size = pc.abs(pc.cast(column, pa.float64()))
        inexact = column.filter(pc.greater_equal(size, 2 ** _EXACT_BITS[column.type]))
        if len(inexact):
            raise InputError(
                f"{uri}: corpus.columns.record_id: column {name!r} holds floating-point numbers too large to be exact, "
                f"for example {inexact[0].as_py()!r}; store the IDs as integers or text, or name another column"
            )


def _without_storage_types(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without the encodings that only say how its values are stored."""
    while True:
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], kind.value_type)
        elif pa.types.is_run_end_encoded(kind):
            column = pc.run_end_decode(column)
        elif isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        else:
            return column


def _as_text(column: pa.ChunkedArray, name: str, columns: Columns, uri: str) -> tuple[pa.ChunkedArray, list[int]]:
    """The column as strings, and the rows whose bytes were not UTF-8."""
    column = _without_storage_types(column)
    kind = column.type
    if isinstance(kind, pa.UuidType):
        stored = [value for chunk in column.chunks for value in chunk.storage.to_pylist()]
        return _strings(value if value is None else str(uuid.UUID(bytes=value)) for value in stored), []
    if pa.types.is_fixed_size_binary(kind):
        return _strings(map(_printable_or_hex, column.to_pylist())), []
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        is_exact = name == columns.record_id or (name in columns.keep and name != columns.text)
        return _decoded(column, name, is_exact, uri)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        # What a file calls a string need not be UTF-8.
        return _decoded(pc.cast(column, pa.large_binary()), name, name == columns.record_id, uri)
    if pa.types.is_floating(kind):
        return _floats_as_text(column), []
    if pa.types.is_decimal(kind):
        return _strings(value if value is None else f"{value:f}" for value in column.to_pylist()), []
    if pa.types.is_nested(kind):
        return _strings(map(text_of, column.to_pylist())), []
    try:
        return pc.cast(column, pa.string()), []
    except pa.ArrowNotImplementedError:  # intervals and the like
        return _strings(map(text_of, column.to_pylist())), []
    except pa.ArrowInvalid as error:  # a time zone that this machine does not know, a date out of range
        raise InputError(f"{uri}: column {name!r} ({kind}) cannot be read as text: {one_line(error)}") from error


def _strings(values: Any) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.string())])


def _printable_or_hex(value: bytes | None) -> str | None:
    """Never ambiguous within a column: text of ``n`` bytes and their ``2 n`` hexadecimal digits differ in length."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return text if text.isprintable() else value.hex()


def _decoded(column: pa.ChunkedArray, name: str, is_exact: bool, uri: str) -> tuple[pa.ChunkedArray, list[int]]:
    try:
        return pc.cast(pc.cast(column, pa.large_binary()), pa.string()), []
    except pa.ArrowInvalid as error:
        if is_exact:
            raise InputError(
                f"{uri}: column {name!r} holds bytes that are not UTF-8 text; store them as text, for example in "
                "hexadecimal, or name another column in corpus.columns"
            ) from error
    # Value by value, so that only the faulty ones change.
    values = column.to_pylist()
    texts = [value if value is None else value.decode("utf-8", errors="replace") for value in values]
    faulty = [row for row, text in enumerate(texts) if text is not None and text.encode() != values[row]]
    return _strings(texts), faulty


def _floats_as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Shortest digits that give the number back; without fraction and exponent where it is an exact integer."""
    largest = 2 ** _EXACT_BITS[column.type]
    if column.type == pa.float16():
        column = pc.cast(column, pa.float32())
    column = pc.if_else(pc.is_nan(column), None, column)
    is_integer = pc.and_(pc.equal(column, pc.floor(column)), pc.less_equal(pc.abs(column), largest))
    integers = pc.cast(pc.if_else(is_integer, column, 0), pa.int64())
    return pc.if_else(is_integer, pc.cast(integers, pa.string()), pc.cast(column, pa.string()))
