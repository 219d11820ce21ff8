"""Bytes and lines of a source file: any filesystem, any compression, never more than a bounded line in memory."""

import io
from collections.abc import Iterator
from typing import IO

import pyarrow as pa

from llambert.corpora.rows import Malformed
from llambert.errors import InputError, one_line
from llambert.locations import open_binary

COMPRESSIONS = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
MAX_LINE_CHARS = 16 << 20

_BUFFER_BYTES = 1 << 20
_SIGNATURES = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "gzip-compressed",
    b"BZh": "bzip2-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"\xfd7zXZ\x00": "xz-compressed",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\xff\xfe": "UTF-16 text (convert it: iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "UTF-16 text (convert it: iconv -f UTF-16 -t UTF-8)",
}
_MAX_NUL_SHARE = 0.2


class _Bytes(io.RawIOBase):
    """A stream whose every fault, of filesystem or codec, is an ``InputError`` that names the file."""

    def __init__(self, stream: IO[bytes], uri: str) -> None:
        self._stream, self._uri = stream, uri

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        try:
            chunk = self._stream.read(len(buffer))
        except Exception as error:  # gzip, lzma, Arrow and each filesystem of fsspec have exceptions of their own
            raise unreadable(self._uri, error) from error
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def unreadable(uri: str, error: Exception) -> InputError:
    """The one line about a file that its filesystem or codec cannot give."""
    return InputError(f"{uri}: cannot be read: {one_line(error)}")


def open_bytes(uri: str) -> io.BufferedReader:
    """The file's content, decompressed as its ending says; ``InputError`` where it cannot be read."""
    compression = next((name for ending, name in COMPRESSIONS.items() if uri.endswith(ending)), None)
    try:
        # fsspec knows zstd only from Python 3.14 on; Arrow always does.
        stream = open_binary(uri, None if compression == "zstd" else compression)
        if compression == "zstd":
            stream = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
    except Exception as error:  # each filesystem of fsspec has exceptions of its own
        raise unreadable(uri, error) from error
    return io.BufferedReader(_Bytes(stream, uri), _BUFFER_BYTES)


def open_text(uri: str) -> io.TextIOWrapper:
    """The file's content as UTF-8 text with its newlines as they are; a byte-order mark is left out.

    Bytes that are not UTF-8 come as lone surrogates. ``InputError`` for what is no text.
    """
    stream = open_bytes(uri)
    start = stream.peek(4096)[:4096]
    for signature, kind in _SIGNATURES.items():
        if start.startswith(signature):
            raise InputError(f"{uri}: its content is {kind}, which its name does not say")
    if start.count(0) > _MAX_NUL_SHARE * len(start):
        raise InputError(f"{uri}: is no UTF-8 text: {start.count(0)} of its first {len(start)} bytes are zero")
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")


def numbered_lines(text: io.TextIOWrapper) -> Iterator[tuple[int, str] | Malformed]:
    """Each line with its number from 1 on and its newline; one over ``MAX_LINE_CHARS`` is malformed."""
    number = 0
    while line := text.readline(MAX_LINE_CHARS):
        number += 1
        if len(line) < MAX_LINE_CHARS or line[-1] in "\r\n":
            yield number, line
            continue
        while (rest := text.readline(MAX_LINE_CHARS)) and rest[-1] not in "\r\n":
            pass
        yield Malformed(number, line, "over_long_line")
