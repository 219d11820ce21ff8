"""An archive in the shape of ``aclImdb_v1.tar.gz``: 100,000 review files, as many of each kind, lengths as there.

The words are invented and follow Zipf's law, so that the archive is packed about as tightly as the real one.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_KINDS = {"train/pos": 1, "train/neg": 1, "train/unsup": 4, "test/pos": 1, "test/neg": 1}
_MEDIAN_WORDS, _SPREAD = 175, 0.6  # of a log-normal: reviews of 1,300 characters in the mean
_NUM_WORDS = 30_000
_FAULT_SHARE = 0.001  # reviews with a byte that is not UTF-8


def write_archive(path: Path, num_files: int, seed: int = 0) -> int:
    """Write the archive; returns the bytes of its reviews. The same for the same arguments."""
    num_bytes = 0
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in reviews(num_files, seed):
            info = tarfile.TarInfo(f"aclImdb/{name}")
            info.size = len(content)
            num_bytes += len(content)
            archive.addfile(info, io.BytesIO(content))
    return num_bytes


def reviews(num_files: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each review file."""
    random = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = ["".join(random.choice(letters[:20], size)) for size in random.integers(2, 10, _NUM_WORDS)]
    shares = 1 / np.arange(1, _NUM_WORDS + 1)
    vocabulary, shares = np.array(words, dtype=object), np.cumsum(shares / shares.sum())
    per_share = num_files // sum(_KINDS.values())
    for kind, weight in _KINDS.items():
        for number in range(per_share * weight):
            size = int(np.clip(random.lognormal(np.log(_MEDIAN_WORDS), _SPREAD), 10, 2400))
            text = " ".join(vocabulary[np.searchsorted(shares, random.random(size))])
            middle = len(text) // 2
            content = f"{text[:middle]}.<br /><br />{text[middle:]}.".encode()
            if random.random() < _FAULT_SHARE:
                content += b" caf\xe9"
            stars = {"pos": random.integers(7, 11), "neg": random.integers(1, 5), "unsup": 0}[kind.split("/")[1]]
            yield f"{kind}/{number}_{stars}.txt", content
