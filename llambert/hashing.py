"""64-bit hashes of record IDs and texts, by which samples are drawn and records looked up."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa


def hash64(
    values: pa.Array | pa.ChunkedArray | Iterable[str], key: bytes = b"", personalization: bytes = b""
) -> np.ndarray:
    """BLAKE2b of each value in UTF-8, as unsigned 64-bit integers of shape (values,); no value may be null.

    64 bits: among 100 million values two share a hash with probability 0.0003, among ten million with 0.000003.
    ``key`` and ``personalization`` (at most 16 bytes) make hashes that say nothing about those made with others.
    """
    start = hashlib.blake2b(key=key, person=personalization, digest_size=8)
    digests = []
    for value in values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else values:
        state = start.copy()  # cheaper than setting the key up again for every value
        state.update(value.encode())
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
