"""Tables of a UMLS release in Rich Release Format, as a stream of blocks of valid rows, in bounded memory.

A row is a line of fields, each ended by ``|``; nothing is quoted. A table is one file or the pieces it was cut
into (``MRCONSO.RRF.aa.gz``, ``.ab.gz``, …: one stream, cut anywhere), plain or gzip. Arrow parses it block by
block, so that rows which are valid but rejected later can still be reported with their line number.
"""

import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from llambert.corpora.rows import Malformed, RowFault
from llambert.errors import InputError, one_line
from llambert.storage.locations import open_binary
from llambert.storage.reference import find_files

FIELDS = {
    "MRCONSO": [
        "CUI",
        "LAT",
        "TS",
        "LUI",
        "STT",
        "SUI",
        "ISPREF",
        "AUI",
        "SAUI",
        "SCUI",
        "SDUI",
        "SAB",
        "TTY",
        "CODE",
        "STR",
        "SRL",
        "SUPPRESS",
        "CVF",
    ],
    "MRSTY": ["CUI", "TUI", "STN", "STY", "ATUI", "CVF"],
    "MRREL": [
        "CUI1",
        "AUI1",
        "STYPE1",
        "REL",
        "CUI2",
        "AUI2",
        "STYPE2",
        "RELA",
        "RUI",
        "SRUI",
        "SAB",
        "SL",
        "RG",
        "DIR",
        "SUPPRESS",
        "CVF",
    ],
}
"""Columns by table, in the order of the release (UMLS Reference Manual, chapter 3)."""

# Concept identifiers ("C" and one to seven digits) are stored as integers: those of d digits begin at _FIRST_CODE[d].
_FIRST_CODE = np.cumsum([0, 0, *(10**digits for digits in range(1, 7))])
NUM_CODES = int(_FIRST_CODE[7]) + 10**7

BLOCK_BYTES = 2 << 20  # stays in a core's cache
MAX_LINE_BYTES = 64 << 20
_LINES_PER_BLOCK = 1 << 17  # several times what a release's block has; each may be malformed, which takes memory
_ID_WIDTH = 8  # of "C" and seven digits
_NEWLINE = b"\n"[0]
_AFTER_LAST_BAR = "after the last bar"  # an empty column: every field is ended, not separated
_GZIP = b"\x1f\x8b"

Unit = TypeVar("Unit")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RrfTable:
    """One table of a release: ``uris`` is its file, or its pieces in order; ``label`` what faults are named after."""

    name: str
    label: str
    uris: tuple[str, ...]
    num_bytes: int


def find_tables(path: str) -> dict[str, RrfTable]:
    """The three tables anywhere below a folder (or a glob's); ``InputError`` if one is missing or ambiguous."""
    filesystem, files, *_ = find_files(path)
    tables = {}
    for name in FIELDS:
        pattern = re.compile(rf"(.*/)?({name}\.RRF)(\.gz)?(?:\.([a-z][a-z]|\d+))?(\.gz)?")
        found = [match for match in map(pattern.fullmatch, files) if match]
        if not found:
            raise InputError(f"corpus.path: {path} has no {name}.RRF, plain, .gz or in pieces (.aa.gz, .ab.gz, …)")
        _check_pieces(name, found)
        whole = len(found) == 1 and found[0].group(4) is None
        label = found[0].group() if whole else f"{found[0].group(1) or ''}{name}.RRF"
        uris = tuple(filesystem.unstrip_protocol(match.group()) for match in found)
        num_bytes = sum(files[match.group()]["size"] or 0 for match in found)
        tables[name] = RrfTable(name, filesystem.unstrip_protocol(label), uris, num_bytes)
    return tables


def _check_pieces(name: str, found: "list[re.Match[str]]") -> None:
    """``InputError`` unless the files are one, or all the pieces of one."""
    marks = [match.group(4) for match in found]
    endings = {(match.group(1), match.group(3), match.group(5), len(match.group(4) or "")) for match in found}
    if len(found) > 1 and (None in marks or len(endings) > 1):
        names = ", ".join(match.group() for match in found[:3])
        raise InputError(f"corpus.path: more than one {name}.RRF: {names}; leave one there, whole or in pieces")
    if marks == [None]:
        return
    places = [int(mark) if mark.isdigit() else (ord(mark[0]) - 97) * 26 + ord(mark[1]) - 97 for mark in marks]
    first = min(places[0], 1) if marks[0].isdigit() else 0
    if places != list(range(first, first + len(places))):
        raise InputError(f"corpus.path: pieces of {name}.RRF are missing: found only {', '.join(marks)}")


@dataclass(frozen=True)
class Block:
    """Whole lines of a table; ``first_line`` is the number of the first."""

    table: RrfTable
    data: bytes
    first_line: int


def read_blocks(table: RrfTable) -> Iterator[Block]:
    """The table in blocks of about two mebibytes; ``InputError`` for a stream that cannot be read to its end."""
    line, rest = 1, b""
    try:
        for chunk in _unpacked(table):
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                rest += chunk
                if len(rest) > MAX_LINE_BYTES:
                    raise InputError(f"{table.label}:{line}: a line of more than 64 MiB: this is no RRF file")
                continue
            data, rest = b"".join([rest, memoryview(chunk)[:cut]]), chunk[cut:]
            ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1
            start = 0
            for end in [*ends[_LINES_PER_BLOCK - 1 :: _LINES_PER_BLOCK].tolist(), len(data)]:
                if end > start:
                    yield Block(table, data[start:end], line)
                    line += min(_LINES_PER_BLOCK, len(ends))
                    ends, start = ends[_LINES_PER_BLOCK:], end
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{table.label}: cannot be read after line {line - 1:,}: {one_line(error)}") from error
    if rest:
        yield Block(table, rest + b"\n", line)


def _unpacked(table: RrfTable) -> Iterator[bytes]:
    chunks = _raw(table.uris)
    first = next(chunks, b"")
    if first.startswith(_GZIP):
        chunks = _gunzipped(first, chunks)
        first = next(chunks, b"")
    yield first.removeprefix("\ufeff".encode())
    yield from chunks


def _raw(uris: Iterable[str]) -> Iterator[bytes]:
    for uri in uris:
        with open_binary(uri) as stream:
            while chunk := stream.read(BLOCK_BYTES):
                yield chunk


def _gunzipped(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Gzip members one after another, wherever the pieces were cut: each its own member, or one member cut up."""
    member = zlib.decompressobj(wbits=31)
    packed: bytes | None = first
    while packed is not None:
        is_full = False
        while packed or is_full:
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            unpacked = member.decompress(packed, BLOCK_BYTES)
            yield unpacked
            is_full = len(unpacked) == BLOCK_BYTES and not member.eof
            packed = member.unused_data.lstrip(b"\0") if member.eof else member.unconsumed_tail
        packed = next(rest, None)
    if not member.eof:
        raise EOFError("the gzip stream ends too early")


class RrfRows:
    """The rows of a block with some of their columns, and ``valid``, the mask of the valid ones.

    Other rows go into ``malformed``: ``bad_encoding`` (not UTF-8), ``wrong_number_of_fields``, ``bad_concept_id``,
    and the reasons that are passed to ``reject``. Arrays have one element for each row of the block with the right
    number of fields; their values are undefined where ``valid`` is false.
    """

    def __init__(self, block: Block, columns: Iterable[str]) -> None:
        self._block = block
        self.malformed: list[Malformed] = []
        content = _blank_lines_not_utf8(block.data)
        if b"\r" in content:  # Arrow ends a line at it, even without b"\n"
            content = content.replace(b"\r\n", b"\n").replace(b"\r", b" ")
        self._table, refused = _parse(content, FIELDS[block.table.name], columns)
        self.num_lines = self._table.num_rows + len(refused)
        self._lines = np.delete(np.arange(self.num_lines), refused)
        self.valid = np.ones(len(self._lines), bool)
        self._report(refused, RowFault.WRONG_NUMBER_OF_FIELDS)
        self.reject(self._lines_not_utf8(), RowFault.BAD_ENCODING)
        self.reject(self._lines_without_final_bar(), RowFault.WRONG_NUMBER_OF_FIELDS)

    @cached_property
    def _line_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        ends = np.flatnonzero(np.frombuffer(self._block.data, np.uint8) == _NEWLINE)
        return np.concatenate([[0], ends[:-1] + 1]), ends

    def _lines_not_utf8(self) -> np.ndarray:
        """Mask of the lines that were emptied because they are not UTF-8; Arrow reads them as rows of empty fields."""
        emptied = pc.equal(self._table[0], b"").to_numpy()
        for row in np.flatnonzero(emptied):
            emptied[row] = not _is_utf8(self._line(int(self._lines[row])))
        return emptied

    def _lines_without_final_bar(self) -> np.ndarray:
        """Mask of the rows with text after the last bar, and of blank lines."""
        unended = pc.not_equal(self._table[_AFTER_LAST_BAR], b"").to_numpy()
        for row in np.flatnonzero(pc.equal(self._table[0], b"")):
            unended[row] |= not self._line(int(self._lines[row]))
        return unended

    def _line(self, line: int) -> bytes:
        starts, ends = self._line_bounds
        return self._block.data[starts[line] : ends[line]].rstrip(b"\r")

    def _report(self, lines: np.ndarray, reason: RowFault) -> None:
        for line in lines.tolist():
            text = self._line(line).decode(errors="replace")
            self.malformed.append(Malformed(self._block.first_line + line, text, reason, self._block.table.label))

    def reject(self, bad: np.ndarray, reason: RowFault) -> None:
        """Move the valid rows where ``bad`` holds to ``malformed``."""
        refused = self.valid & bad
        self._report(self._lines[refused], reason)
        self.valid &= ~refused

    def is_in(self, column: str, values: Iterable[str]) -> np.ndarray:
        """Where a column is exactly one of ``values``."""
        wanted = pa.array([value.encode() for value in values], pa.binary())
        return pc.is_in(self._table[column], wanted).to_numpy()

    def strings(self, column: str, rows: np.ndarray) -> pa.StringArray:
        """A column of the rows where the mask holds, all of them valid."""
        return self._table[column].filter(pa.array(rows)).combine_chunks().cast(pa.string())

    def concept_codes(self, column: str) -> np.ndarray:
        """Integers (0 to ``NUM_CODES``) for concept identifiers; rows with anything else are rejected."""
        ids = self._table[column].combine_chunks()
        offsets = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset : ids.offset + len(ids) + 1]
        data, widths = np.frombuffer(ids.buffers()[2] or b"", np.uint8), np.diff(offsets)
        if is_uniform := bool((widths == _ID_WIDTH).all()):
            letters = data[offsets[0] : offsets[-1]].reshape(-1, _ID_WIDTH)
        else:
            places = np.minimum(offsets[:-1, None] + np.arange(_ID_WIDTH), max(len(data) - 1, 0))
            letters = data[places] if len(data) else np.zeros(places.shape, np.uint8)
        valid, numbers = letters[:, 0] == b"C"[0], np.zeros(len(ids), np.int32)
        for place in range(1, _ID_WIDTH):
            digits = letters[:, place] - b"0"[0]  # below "0" it wraps to above 9
            inside = True if is_uniform else widths > place
            valid &= (digits <= 9) | np.logical_not(inside)
            numbers = numbers * 10 + digits if is_uniform else np.where(inside, numbers * 10 + digits, numbers)
        valid &= (widths > 1) & (widths <= _ID_WIDTH)
        self.reject(~valid, RowFault.BAD_CONCEPT_ID)
        return np.where(valid, numbers + _FIRST_CODE[np.clip(widths - 1, 0, _ID_WIDTH - 1)], 0)


def _blank_lines_not_utf8(lines: bytes) -> bytes:
    """The same lines, but empty where they are not UTF-8, since Arrow decodes the lines that it rejects."""
    if _is_utf8(lines):
        return lines
    half = len(lines) // 2
    middle = lines.find(b"\n", half, -1) + 1 or lines.rfind(b"\n", 0, half) + 1
    if not middle:
        return b"\n"
    return _blank_lines_not_utf8(lines[:middle]) + _blank_lines_not_utf8(lines[middle:])


def _is_utf8(text: bytes) -> bool:
    bounds = pa.py_buffer(np.array([0, len(text)], np.int32))
    try:
        pa.StringArray.from_buffers(1, bounds, pa.py_buffer(text)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _parse(content: bytes, fields: list[str], columns: Iterable[str]) -> tuple[pa.Table, np.ndarray]:
    """The columns of the rows of the right number of fields, and the numbers, from 0 on, of the other lines."""
    refused: list[int] = []

    def refuse(row: "pyarrow.csv.InvalidRow") -> str:
        refused.append(row.number - 1)
        return "skip"

    wanted = [*columns, _AFTER_LAST_BAR]
    table = pyarrow.csv.read_csv(
        pa.BufferReader(content),
        pyarrow.csv.ReadOptions(
            use_threads=False, block_size=len(content) + 1, column_names=[*fields, _AFTER_LAST_BAR]
        ),
        pyarrow.csv.ParseOptions(
            delimiter="|", quote_char=False, double_quote=False, ignore_empty_lines=False, invalid_row_handler=refuse
        ),
        pyarrow.csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.binary()), strings_can_be_null=False
        ),
    )
    return table, np.array(refused, np.int64)


def concept_ids(codes: np.ndarray) -> list[str]:
    """The concept identifiers of some integers."""
    num_digits = np.searchsorted(_FIRST_CODE[1:], codes, side="right")
    numbers = codes - _FIRST_CODE[num_digits]
    return [f"C{number:0{width}d}" for number, width in zip(numbers.tolist(), num_digits.tolist(), strict=True)]


def concept_codes(ids: Iterable[str]) -> np.ndarray:
    """The integers of some concept identifiers."""
    return np.array([_FIRST_CODE[len(concept) - 1] + int(concept[1:]) for concept in ids], np.int64)


def map_in_threads(work: Callable[[Unit], Result], units: Iterable[Unit], num_threads: int) -> Iterator[Result]:
    """``work`` of every unit, in order, with only a few units in memory. NumPy and Arrow leave the GIL."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for unit in units:
                waiting.append(pool.submit(work, unit))
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
