"""The header of a GGUF file from anyone, read within bounds before a library follows its counts."""

import math
import mmap
import struct
from pathlib import Path
from typing import Any

from llambert.errors import UnfitModel, one_line

_VERSIONS = (2, 3)
_MAX_ITEMS = 4_000_000  # of all lists, whose items are read one by one: a vocabulary and its merges have 1.3 million
_MAX_NAME_BYTES = 1 << 16
_MAX_DIMENSIONS = 8
_MAX_NUMBERS_PER_BYTE = 8  # a weight takes a bit at least
_STRING, _LIST = 8, 9
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


def read_gguf_header(file: Path) -> dict[str, Any]:
    """The names and values of a file's metadata that are single numbers.

    ``UnfitModel`` if the header counts more values, weights or bytes than the file has.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Header(content).read()
    except (OSError, ValueError, struct.error) as error:
        raise UnfitModel(f"its GGUF header cannot be read: {one_line(error)}") from error


class _Header:
    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._position, self._num_items = content, 0, 0

    def read(self) -> dict[str, Any]:
        magic, version, num_tensors, num_values = self._numbers("4sIQQ")
        if magic != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        if version not in _VERSIONS:
            raise ValueError(f"its version is {version}, not one of {', '.join(map(str, _VERSIONS))}")
        numbers: dict[str, Any] = {}
        for _ in range(num_values):
            name, (kind,) = self._name(), self._numbers("I")
            if kind in _SCALARS:
                (numbers[name],) = self._numbers(_SCALARS[kind])
            else:
                self._skip_value(kind)
        total = sum(self._read_tensor() for _ in range(num_tensors))
        if total > len(self._content) * _MAX_NUMBERS_PER_BYTE:
            raise ValueError(f"it states {total:,} weights, and the file has {len(self._content):,} bytes")
        return numbers

    def _read_tensor(self) -> int:
        """How many weights a tensor has."""
        name, (num_dimensions,) = self._name(), self._numbers("I")
        if num_dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"the weights {name[:100]} have {num_dimensions:,} dimensions")
        shape = self._numbers(f"{num_dimensions}Q")
        _kind, offset = self._numbers("IQ")
        if offset > len(self._content):
            raise ValueError(f"the weights {name[:100]} lie outside the file")
        return math.prod(shape)

    def _skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self._skip(*self._numbers("Q"))
            return
        if kind != _LIST:
            raise ValueError(f"it holds a value of the unknown kind {kind}")
        item, length = self._numbers("IQ")
        self._num_items += length
        if self._num_items > _MAX_ITEMS:
            raise ValueError(f"its lists have more than {_MAX_ITEMS:,} items")
        if item in _SCALARS:
            self._skip(length * struct.calcsize(f"<{_SCALARS[item]}"))
        elif item == _STRING:
            for _ in range(length):
                self._skip(*self._numbers("Q"))
        else:
            raise ValueError("it holds a list of lists")

    def _name(self) -> str:
        (length,) = self._numbers("Q")
        if length > _MAX_NAME_BYTES:
            raise ValueError(f"a name in it has {length:,} bytes")
        return bytes(self._content[self._skip(length) : self._position]).decode()

    def _numbers(self, form: str) -> tuple[Any, ...]:
        form = f"<{form}"
        return struct.unpack_from(form, self._content, self._skip(struct.calcsize(form)))

    def _skip(self, num_bytes: int) -> int:
        """Where the next ``num_bytes`` bytes begin; reading continues after them."""
        start = self._position
        if num_bytes > len(self._content) - start:
            raise ValueError(f"it states {num_bytes:,} bytes where the file has {len(self._content) - start:,} left")
        self._position += num_bytes
        return start
