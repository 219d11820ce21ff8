"""A part as a Parquet file, with a checksum on every page, and counts and a digest in the footer.

Without checksums a fifth of all single altered bytes are read back as other rows, and no reader would know
(DECISIONS.md, "Drills"). The footer holds the SHA-256 of everything before it, so its own SHA-256 stands for the
whole file: a restart reads footers alone, ``verify`` the bytes that they vouch for too.
"""

import contextlib
import errno
import hashlib
import io
import json
from collections.abc import Iterator
from typing import NamedTuple, TypedDict

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from llambert.errors import Damaged, InputError, one_line

# Under which the footer holds the part's own counts, and the SHA-256 of the bytes before it and of the counts.
_COUNTS_KEY, _DIGEST_KEY = b"llambert.counts", b"llambert.sha256"
_MAGIC = b"PAR1"
_NUM_END_BYTES = 8  # the footer's length, and the magic
_NUM_BYTES_READ = 64 << 10  # holds the footer of some million rows


class PartCounts(TypedDict, total=False):
    """What was counted when a part was made: see ``manifest.Part``."""

    counts: dict[str, int]
    labels: dict[str, int]
    rejected: dict[str, int]


_NO_COUNTS = PartCounts(counts={}, labels={}, rejected={})


def is_part(name: str) -> bool:
    """Whether a file of this name is a committed part: not hidden, as unfinished ones are."""
    return name.endswith(".parquet") and not name.rpartition("/")[2].startswith(".")


class PartWriter:
    """Writes a part piece by piece, compressed as it comes, so that a part of ten million rows takes little memory."""

    _ROWS_PER_GROUP = 65_536

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self.num_rows = 0

    def add(self, table: pa.Table) -> None:
        """More rows, of the same schema as those before; at least one table must come, if only an empty one."""
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        self.num_rows += table.num_rows
        if self._num_waiting >= self._ROWS_PER_GROUP:
            self._write()

    def content(self, counts: PartCounts) -> bytes:
        """The finished Parquet file; no row can be added afterwards."""
        if self._waiting:
            self._write()
        assert self._writer is not None, "a part without a table has no schema"
        counted = _NO_COUNTS | counts
        digest = _digest(self._sink.getbuffer(), counted)
        self._writer.add_key_value_metadata({_COUNTS_KEY: _json(counted), _DIGEST_KEY: digest})
        self._writer.close()
        return self._sink.getvalue()

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, table.schema, compression="zstd", write_page_checksum=True)
        self._writer.write_table(table)
        self._waiting, self._num_waiting = [], 0


class Footer(NamedTuple):
    """What the end of a part says of it. ``sha256``: of these bytes; ``digest``: what they hold of the others."""

    num_bytes: int
    num_rows: int
    counts: PartCounts
    sha256: str
    digest: str


def parse_footer(end: bytes) -> Footer:
    """The footer of a part that ends with ``end``; ``ArrowInvalid``, or another ``ValueError``, if it is not whole."""
    num_bytes = _footer_length(end)
    if num_bytes > len(end):
        raise pa.ArrowInvalid(f"its footer should have {num_bytes:,} bytes, and {len(end):,} are there")
    footer = end[-num_bytes:]
    metadata = pq.read_metadata(pa.BufferReader(footer))
    stored = metadata.metadata or {}
    if not {_COUNTS_KEY, _DIGEST_KEY} <= stored.keys():
        raise pa.ArrowInvalid("its footer holds no digest of its pages")
    counts, digest = json.loads(stored[_COUNTS_KEY]), stored[_DIGEST_KEY].decode()
    return Footer(num_bytes, metadata.num_rows, counts, hashlib.sha256(footer).hexdigest(), digest)


def read_footer(filesystem: fsspec.AbstractFileSystem, path: str, size: int) -> Footer:
    """``parse_footer`` of a stored part of ``size`` bytes, of which the end alone is read."""
    end = filesystem.cat_file(path, start=max(size - _NUM_BYTES_READ, 0), end=size)
    if len(end) < (num_bytes := _footer_length(end)) <= size:
        end = filesystem.cat_file(path, start=size - num_bytes, end=size)
    return parse_footer(end)


def check_pages(content: bytes) -> Footer:
    """The footer of a whole part; ``ArrowInvalid`` if the bytes before it, or its counts, are not those written."""
    footer = parse_footer(content)
    if _digest(memoryview(content)[: -footer.num_bytes], footer.counts) != footer.digest:
        raise pa.ArrowInvalid("its pages are not those that were written")
    return footer


def is_unaltered(content: bytes, sha256: str) -> bool:
    """Whether a whole part is the one whose footer has this SHA-256."""
    try:
        return check_pages(content).sha256 == sha256
    except (pa.ArrowException, OSError, ValueError):
        return False


def _digest(pages: memoryview, counts: PartCounts) -> str:
    digest = hashlib.sha256(pages)
    digest.update(_json(counts))
    return digest.hexdigest()


def _json(counts: PartCounts) -> bytes:
    return json.dumps(counts, sort_keys=True).encode()


def _footer_length(end: bytes) -> int:
    if end[-len(_MAGIC) :] != _MAGIC:
        raise pa.ArrowInvalid("it does not end as a Parquet file does")
    return int.from_bytes(end[-_NUM_END_BYTES : -len(_MAGIC)], "little") + _NUM_END_BYTES


@contextlib.contextmanager
def damage_as_input_error(uri: str, remedy: str) -> Iterator[None]:
    """``Damaged`` where what is stored at ``uri`` is not there or cannot be understood; storage's own faults pass."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        why = wrong_kind(error) or one_line(error)
        if isinstance(error, OSError) and not wrong_kind(error):
            if isinstance(error, PermissionError):
                raise InputError(f"{uri} cannot be read: {why}; fix its permissions") from error
            if type(error) is not OSError or error.errno is not None:
                raise
        raise Damaged(uri, why, remedy) from error


def wrong_kind(error: BaseException) -> str:
    """What is in a file's place where ``error`` says that it is not a file; empty for any other error."""
    if isinstance(error, FileNotFoundError):
        return "it is missing"
    if isinstance(error, IsADirectoryError):
        return "a folder is in its place"
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return "a file is in the place of its folder"
    if isinstance(error, OSError):
        return {
            errno.ELOOP: "a link that leads to itself is in its place",
            errno.ENXIO: "a pipe, a socket or a device is in its place",
        }.get(error.errno or 0, "")
    return ""
