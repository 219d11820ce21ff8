"""Bytes and lines of a source file: any filesystem, any compression, never more than a bounded line in memory."""

import io
import lzma
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa

from llambert.corpora.encodings import codec_of, error_handler, other_encoding
from llambert.corpora.rows import MAX_MALFORMED_CHARS, Malformed, RowFault
from llambert.errors import InputError, one_line
from llambert.storage.locations import open_binary

COMPRESSIONS = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
MAX_LINE_CHARS = 16 << 20
_MAX_XZ_BYTES = 256 << 20  # the file says how much its decoder takes: 65 MiB at xz -9, but up to 4 GiB

_BUFFER_BYTES = 1 << 20
_SIGNATURES = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "gzip-compressed",
    b"BZh": "bzip2-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"\xfd7zXZ\x00": "xz-compressed",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
}
_HEAD_BYTES = 4096
# Of a file that is not UTF-8: enough lines to tell its language by, searched for in so much of it.
_SAMPLE_BYTES = 16 << 10
_SEARCHED_BYTES = 64 << 20


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


class _Xz(io.RawIOBase):
    """The content of a stream of xz, in bounded memory: ``lzma.LZMAFile`` takes whatever the file asks for."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._decoder = stream, self._new_decoder()

    @staticmethod
    def _new_decoder() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_BYTES)

    def read(self, size: int = -1) -> bytes:
        while True:
            packed = b""
            if self._decoder.eof:
                packed = self._decoder.unused_data.lstrip(b"\0") or self._stream.read(_BUFFER_BYTES).lstrip(b"\0")
                if not packed:
                    return b""
                self._decoder = self._new_decoder()
            elif self._decoder.needs_input and not (packed := self._stream.read(_BUFFER_BYTES)):
                raise EOFError("the xz stream ends too early")
            if unpacked := self._decoder.decompress(packed, size):
                return unpacked

    def close(self) -> None:
        self._stream.close()
        super().close()


def unreadable(uri: str, error: Exception) -> InputError:
    """The one line about a file that its filesystem or codec cannot give."""
    return InputError(f"{uri}: cannot be read: {one_line(error)}")


def open_bytes(uri: str) -> io.BufferedReader:
    """The file's content, decompressed as its ending says; ``InputError`` where it cannot be read."""
    compression = next((name for ending, name in COMPRESSIONS.items() if uri.lower().endswith(ending)), None)
    try:
        # fsspec knows zstd only from Python 3.14 on; Arrow always does.
        stream: Any = open_binary(uri, None if compression in ("zstd", "xz") else compression)
        if compression == "zstd":
            stream = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
        elif compression == "xz":
            stream = _Xz(stream)
    except Exception as error:  # each filesystem of fsspec has exceptions of its own
        raise unreadable(uri, error) from error
    return io.BufferedReader(_Bytes(stream, uri), _BUFFER_BYTES)


def open_text(uri: str, encoding: str | None = None) -> io.TextIOWrapper:
    """The file's content as text with its newlines as they are; a byte-order mark is left out.

    ``encoding``: the recipe's, null for UTF-8; a byte-order mark says more. Bytes that are no characters come as lone
    surrogates (``encodings.is_undecodable``). ``InputError`` for what is not text.
    """
    stream = open_bytes(uri)
    start = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    codec, num_mark_bytes = codec_of(start, encoding)
    if not num_mark_bytes:
        for signature, kind in _SIGNATURES.items():
            if start.startswith(signature):
                raise InputError(f"{uri}: its content is {kind}, which its name does not say")
        if other := other_encoding(start, codec):
            advice = "remove corpus.encoding" if other == "utf-8" else "set corpus.encoding"
            raise InputError(
                f"{uri}: is not {codec.upper()} text; if it is text, it is probably {other}: {advice}, or convert it"
            )
    stream.read(num_mark_bytes)
    return io.TextIOWrapper(stream, encoding=codec, errors=error_handler(codec), newline="")


def undecodable_sample(uri: str) -> bytes:
    """Some lines of a file that are not UTF-8, or its beginning if that holds zeros; empty where there are none."""
    sample = b""
    with open_bytes(uri) as stream:
        start = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
        if b"\0" in start:
            return start
        num_bytes = 0
        while len(sample) < _SAMPLE_BYTES and num_bytes < _SEARCHED_BYTES and (line := stream.readline(_SAMPLE_BYTES)):
            num_bytes += len(line)
            try:
                line.decode()
            except UnicodeDecodeError:
                sample += line
    return sample


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
        yield Malformed(number, line[:MAX_MALFORMED_CHARS], RowFault.OVER_LONG_LINE)
