import hashlib

import numpy as np
import pyarrow as pa
import pytest

from llambert.hashing import hash64


@pytest.mark.parametrize(("key", "personalization"), [(b"", b""), (b"7", b""), (b"7", b"trial")])
def test_a_hash_is_64_bits_of_keyed_blake2b(key, personalization):
    values = ["tt0111161", "é", ""]
    digests = [hashlib.blake2b(v.encode(), key=key, person=personalization, digest_size=8).digest() for v in values]
    hashes = hash64(values, key, personalization)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [int.from_bytes(digest, "big") for digest in digests]


def test_hashes_are_what_they_always_were():
    # Stored in corpus_keys: the keys of a part that is committed must be comparable with those of a later one.
    assert hash64(["tt0111161", "é"]).tolist() == [15458753716289165887, 14635220546840893743]


@pytest.mark.parametrize("values", [["a", "b"], []])
def test_arrow_columns_and_lists_have_the_same_hashes(values):
    expected = hash64(values)
    assert expected.shape == (len(values),)
    for column in (pa.array(values, pa.string()), pa.chunked_array([values[:1], values[1:]], pa.string())):
        np.testing.assert_array_equal(hash64(column), expected)
