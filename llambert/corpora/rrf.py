"""Tables of a UMLS release in Rich Release Format, as a stream of blocks of sound rows, in bounded memory.

A row is a line of fields, each ended by ``|``; nothing is quoted. A table is one file or the pieces it was cut
into (``MRCONSO.RRF.aa.gz``, ``.ab.gz``, …: one stream, cut anywhere), plain or gzip. No CSV reader is used
because rows that are sound in themselves may still be refused, and must then be named by their line.
"""

import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import fsspec
import numpy as np
import pyarrow as pa

from llambert.corpora.rows import Malformed
from llambert.errors import InputError, one_line
from llambert.reference import find_files

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

# Concept identifiers, "C" and one to seven digits, stand as integers: those of d digits begin at _FIRST_CODE[d].
_FIRST_CODE = np.cumsum([0, 0, *(10**digits for digits in range(1, 7))])
NUM_CODES = int(_FIRST_CODE[7]) + 10**7

_BLOCK_BYTES = 8 << 20
_MAX_LINE_BYTES = 64 << 20
_BAR, _NEWLINE, _RETURN, _ZERO = b"|"[0], b"\n"[0], b"\r"[0], b"0"[0]
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
    filesystem, files = find_files(path)
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

    @property
    def num_lines(self) -> int:
        """Lines of this block, sound or not."""
        return self.data.count(b"\n")


def read_blocks(table: RrfTable) -> Iterator[Block]:
    """The table in blocks of some mebibytes; ``InputError`` for a stream that cannot be read to its end."""
    line, rest = 1, b""
    try:
        for chunk in _unpacked(table):
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                rest += chunk
                if len(rest) > _MAX_LINE_BYTES:
                    raise InputError(f"{table.label}:{line}: a line of more than 64 MiB: this is no RRF file")
                continue
            data, rest = rest + chunk[:cut], chunk[cut:]
            yield Block(table, data, line)
            line += data.count(b"\n")
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
        with fsspec.open(uri, "rb").open() as stream:
            while chunk := stream.read(_BLOCK_BYTES):
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
            unpacked = member.decompress(packed, _BLOCK_BYTES)
            yield unpacked
            is_full = len(unpacked) == _BLOCK_BYTES and not member.eof
            packed = member.unused_data.lstrip(b"\0") if member.eof else member.unconsumed_tail
        packed = next(rest, None)
    if not member.eof:
        raise EOFError("the gzip stream ends too early")


class RrfRows:
    """The sound rows of a block, as positions of their fields; what is not sound is in ``malformed``.

    Reasons: ``wrong_field_count``, ``bad_encoding`` (not UTF-8), ``bad_concept_id``, and those that ``refuse``
    is given.
    """

    def __init__(self, block: Block) -> None:
        self._block, self._fields = block, FIELDS[block.table.name]
        self._bytes = np.frombuffer(block.data, np.uint8)
        self.malformed: list[Malformed] = []
        newlines = np.flatnonzero(self._bytes == _NEWLINE)
        self._starts = np.concatenate([[0], newlines[:-1] + 1])
        self._ends = newlines - (self._bytes[np.maximum(newlines - 1, 0)] == _RETURN)
        self._rows = np.arange(len(newlines))  # the lines still in
        bars = np.flatnonzero(self._bytes == _BAR)
        first = np.searchsorted(bars, self._starts)
        num_bars = np.diff(first, append=len(bars))
        sound = (num_bars == len(self._fields)) & (self._bytes[np.maximum(self._ends - 1, 0)] == _BAR)
        self.refuse(~sound, "wrong_field_count")
        self._bars = bars[np.repeat(sound, num_bars)].reshape(-1, len(self._fields))
        self._row_of_bars = np.cumsum(sound) - 1
        self.refuse(self._not_utf8(), "bad_encoding")

    def __len__(self) -> int:
        return len(self._rows)

    def _not_utf8(self) -> np.ndarray:
        """Which rows are not UTF-8; looked at one by one only where the block as a whole is not."""
        bad, data = np.zeros(len(self), bool), self._block.data
        bounds = pa.py_buffer(np.array([0, len(data)], np.int32))
        try:
            pa.StringArray.from_buffers(1, bounds, pa.py_buffer(data)).validate(full=True)
        except pa.ArrowInvalid:
            suspects = np.searchsorted(self._ends, np.flatnonzero(self._bytes >= 0x80))
            for place in np.flatnonzero(np.isin(self._rows, suspects)):
                try:
                    self._line(self._rows[place]).decode()
                except UnicodeDecodeError:
                    bad[place] = True
        return bad

    def _line(self, row: int) -> bytes:
        return self._block.data[self._starts[row] : self._ends[row]]

    def refuse(self, bad: np.ndarray, reason: str, *columns: np.ndarray) -> list[np.ndarray]:
        """Take the rows where ``bad`` holds into ``malformed``, and give ``columns`` without them."""
        for row in self._rows[bad].tolist():
            text = self._line(row).decode(errors="replace")
            self.malformed.append(Malformed(self._block.first_line + row, text, reason, self._block.table.label))
        return self.leave_out(bad, *columns)

    def leave_out(self, rows: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
        """Go on without the rows where the mask holds, and give ``columns`` without them."""
        if not rows.any():
            return list(columns)
        self._rows = self._rows[~rows]
        return [column[~rows] for column in columns]

    def _bounds(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        place, rows = self._fields.index(field), self._row_of_bars[self._rows]
        start = self._bars[rows, place - 1] + 1 if place else self._starts[self._rows]
        return start, self._bars[rows, place]

    def is_any(self, field: str, values: Iterable[str]) -> np.ndarray:
        """Where a field is exactly one of ``values``: quick for a few short ones."""
        start, end = self._bounds(field)
        found = np.zeros(len(self), bool)
        for value in map(str.encode, values):
            same = np.flatnonzero(end - start == len(value))
            for place, byte in enumerate(value):
                same = same[self._bytes[start[same] + place] == byte]
            found[same] = True
        return found

    def values(self, field: str) -> pa.StringArray:
        """A field of the rows. Bounds of fields and of what lies between them are the offsets of one array."""
        start, end = self._bounds(field)
        offsets = np.stack([start, end], axis=1).astype(np.int32).ravel()
        both = pa.StringArray.from_buffers(
            max(len(offsets) - 1, 0), pa.py_buffer(offsets), pa.py_buffer(self._block.data)
        )
        return both.take(pa.array(np.arange(0, len(both), 2)))

    def concept_codes(self, *fields: str) -> list[np.ndarray]:
        """Integers (0 to ``NUM_CODES``) for concept identifiers; rows with anything else are refused."""
        codes, sound = zip(*(self._codes(field) for field in fields), strict=True)
        return self.refuse(~np.logical_and.reduce(sound), "bad_concept_id", *codes)

    def _codes(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        start, end = self._bounds(field)
        num_digits = end - start - 1
        sound = (num_digits >= 1) & (num_digits <= 7) & (self._bytes[start] == b"C"[0])
        longest = int(num_digits.max(where=sound, initial=0))
        is_uniform = bool((num_digits == longest).all())
        numbers = np.zeros(len(self), np.int64)
        for place in range(1, longest + 1):
            digit = self._bytes[np.minimum(start + place, len(self._bytes) - 1)] - _ZERO  # wraps below "0"
            inside = True if is_uniform else place <= num_digits
            sound &= (digit < 10) | np.logical_not(inside)
            numbers = np.where(inside, numbers * 10 + digit, numbers)
        return np.where(sound, numbers + _FIRST_CODE[np.clip(num_digits, 0, 7)], 0), sound


def concept_ids(codes: np.ndarray) -> list[str]:
    """The concept identifiers that integers stand for."""
    num_digits = np.searchsorted(_FIRST_CODE[1:], codes, side="right")
    numbers = codes - _FIRST_CODE[num_digits]
    return [f"C{number:0{width}d}" for number, width in zip(numbers.tolist(), num_digits.tolist(), strict=True)]


def concept_codes(ids: Iterable[str]) -> np.ndarray:
    """The integers that stand for concept identifiers."""
    return np.array([_FIRST_CODE[len(concept) - 1] + int(concept[1:]) for concept in ids], np.int64)


def in_threads(work: Callable[[Unit], Result], units: Iterable[Unit], num_threads: int) -> Iterator[Result]:
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
