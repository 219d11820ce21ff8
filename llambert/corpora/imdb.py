"""The IMDb review data set (Maas et al. 2011) as it is distributed: ``aclImdb_v1.tar.gz``, the folder it unpacks
to, or the Parquet files of the Hugging Face hub (``stanfordnlp/imdb``).

Columns: record_id, text, split (train, test, extra), label (pos, neg, null in ``extra``) and rating (1 to 10; null
in ``extra`` and in the Parquet files, which have none). ``extra`` are the 50,000 unlabelled reviews. ``<br />``, the
only markup of the reviews, becomes a line break.
"""

import io
import re
import tarfile
from collections.abc import Iterable, Iterator

from llambert import schema
from llambert.corpora.files import read_parquet
from llambert.corpora.opening import open_bytes
from llambert.corpora.rows import Malformed, Row, Rows, Skipped, SourceFile, batched, require_columns
from llambert.corpora.text_files import read_members, units_of
from llambert.errors import InputError
from llambert.recipe import CorpusRecipe
from llambert.reference import find_files

COLUMNS = [schema.RECORD_ID, schema.TEXT, schema.SPLIT, "label", "rating"]

_ARCHIVE = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz))$")
_REVIEW = re.compile(r"(?:^|/)((train|test)/(pos|neg|unsup)/([^/]+)\.txt)$")
_NAME = re.compile(r"\d+_(\d+)")
_SHARD = re.compile(r"(?:^|/)(train|test|unsupervised)-[^/]*\.parquet$")
_LINE_BREAK = re.compile(r"<br ?/?>")
_HUB_LABELS = {"0": "neg", "1": "pos", "-1": None}


def find(corpus: CorpusRecipe) -> list[SourceFile]:
    """The archive, the Parquet files, or the folder's reviews some thousand a unit."""
    filesystem, files = find_files(corpus.path)
    if whole := [name for name in files if _ARCHIVE.search(name) or _SHARD.search(name)]:
        return [
            SourceFile(index, filesystem.unstrip_protocol(name), corpus.format, files[name]["size"] or 0)
            for index, name in enumerate(whole)
        ]
    reviews = {name: info for name, info in files.items() if _REVIEW.search(name)}
    if not reviews:
        raise InputError(
            f"corpus.path: {corpus.path} is no IMDb data set: neither an archive aclImdb_v1.tar.gz, nor a folder with "
            "train/pos/*.txt, nor Parquet files train-*.parquet"
        )
    return units_of(filesystem, reviews, corpus.format)


def read(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The reviews of one unit."""
    require_columns(columns, COLUMNS, source.uri)
    rows: Iterator[Row | Malformed | Skipped]
    if _SHARD.search(source.uri):
        rows = _hub_reviews(source.uri)
    elif _ARCHIVE.search(source.uri):
        rows = _reviews(_archived(source.uri, 4 * (corpus.max_text_chars + 1)))
    else:
        rows = _reviews((f"{source.uri}/{member}", content) for member, content in read_members(source, corpus))
    places = [COLUMNS.index(column) for column in columns]
    return batched(
        (row if isinstance(row, Malformed | Skipped) else [row[place] for place in places] for row in rows), columns
    )


def _reviews(files: Iterable[tuple[str, bytes | Malformed]]) -> Iterator[Row | Malformed | Skipped]:
    """Rows of the review files among ``files``; the others of an archive are counted."""
    for path, content in files:
        review = _REVIEW.search(path)
        if review is None:
            yield Skipped("num_other_files")
        elif isinstance(content, Malformed):
            yield content
        elif not (name := _NAME.fullmatch(review[4])):
            yield Malformed(None, review[1], "bad_file_name", path)
        else:
            is_labelled = review[3] != "unsup"
            split = review[2] if is_labelled else "extra"
            label, rating = (review[3], name[1]) if is_labelled else (None, None)
            yield [review[1].removesuffix(".txt"), _text(content), split, label, rating]


def _archived(uri: str, limit: int) -> Iterator[tuple[str, bytes | Malformed]]:
    """The files of an archive, read once from its start to its end."""
    with open_bytes(uri) as stream:
        ending = _Ending(stream)
        try:
            with tarfile.open(fileobj=ending, mode="r|") as archive:
                for member in archive:
                    if member.isfile():
                        content = archive.extractfile(member)
                        assert content is not None, f"{member.name} is a file without content"
                        yield member.name, content.read(limit)
        except tarfile.TarError as error:
            raise InputError(f"{uri}: cannot be read as a tar archive: {error}") from error
        ending.require(uri)


class _Ending(io.RawIOBase):
    """Remembers how a tar archive ends: ``tarfile`` takes one cut off between two files for whole."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream, self._last = stream, b""

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self._last = (self._last + chunk[-512:])[-512:]
        return chunk

    def require(self, uri: str) -> None:
        """``InputError`` unless the archive ends with a block of zeros, as the format says."""
        while self.read(1 << 20):
            pass
        if self._last.strip(b"\0"):
            raise InputError(f"{uri}: the archive is cut off: it has no end mark")


def _hub_reviews(uri: str) -> Iterator[Row | Malformed | Skipped]:
    """Rows of ``text`` and ``label``; ids are made of the file's name and the row."""
    stem = uri.rpartition("/")[2].removesuffix(".parquet")
    split = stem.partition("-")[0].replace("unsupervised", "extra")
    number = 0
    for rows in read_parquet(uri, ["text", "label"]):
        for text, label in zip(*(column.to_pylist() for column in rows.records.columns), strict=True):
            if label not in _HUB_LABELS:
                yield Malformed(number + 1, f"label {label}: {text}", "unknown_label", uri)
            else:
                text = None if text is None else _LINE_BREAK.sub("\n", text)
                yield [f"{stem}/{number:06d}", text, split, _HUB_LABELS[label], None]
            number += 1


def _text(content: bytes) -> str:
    return _LINE_BREAK.sub("\n", content.decode("utf-8-sig", errors="surrogateescape"))
