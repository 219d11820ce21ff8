"""The IMDb review data set (Maas et al. 2011) as it is distributed: ``aclImdb_v1.tar.gz``, the folder it unpacks
to, or the Parquet files of the Hugging Face hub (``stanfordnlp/imdb``).

Columns: record_id, text, split (train, test, extra), label (pos, neg, null in ``extra``) and rating (1 to 10; null
in ``extra`` and in the Parquet files, which have none). ``extra`` are the 50,000 unlabelled reviews. ``<br />``, the
only markup of the reviews, becomes a line break.
"""

import re
from collections.abc import Iterable, Iterator

from llambert import schema
from llambert.corpora.archive import read_archive
from llambert.corpora.parquet import read_parquet
from llambert.corpora.rows import Counted, Malformed, Row, RowFault, Rows, SourceFile, Sources, batched, require_columns
from llambert.corpora.text_files import read_members, units_of
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
from llambert.recipe import digest
from llambert.storage.reference import find_files

COLUMNS = [schema.RECORD_ID, schema.TEXT, schema.SPLIT, "label", "rating"]

_ARCHIVE = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz|zst))$")
_REVIEW = re.compile(r"(?:^|/)((train|test)/(pos|neg|unsup)/([^/]+)\.txt)$")
_NAME = re.compile(r"\d+_(\d+)")
_SHARD = re.compile(r"(?:^|/)(train|test|unsupervised)-[^/]*\.parquet$")
_LINE_BREAK = re.compile(r"<br ?/?>")
_HUB_LABELS = {"0": "neg", "1": "pos", "-1": None}


def find(corpus: CorpusRecipe) -> Sources:
    """The archive, the Parquet files, or the folder's reviews some thousand a unit."""
    found = find_files(corpus.path)
    if whole := [name for name in found.files if _ARCHIVE.search(name) or _SHARD.search(name)]:
        units = []
        for name in whole:
            uri, inside = found.filesystem.unstrip_protocol(name), found.inside(name)
            size = found.files[name]["size"] or 0
            units.append(SourceFile(digest(inside), uri, corpus.format, size, name=inside))
        return Sources(units, found.num_hidden)
    reviews = [name for name in found.files if _REVIEW.search(name)]
    if not reviews:
        raise InputError(
            f"corpus.path: {corpus.path} is no IMDb data set: neither an archive aclImdb_v1.tar.gz, nor a folder with "
            "train/pos/*.txt, nor Parquet files train-*.parquet"
        )
    return Sources(units_of(found, reviews, corpus.format), found.num_hidden)


def read(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The reviews of one unit."""
    require_columns(columns, COLUMNS, source.uri)
    rows: Iterator[Row | Malformed | Counted]
    if _SHARD.search(source.uri):
        rows = _hub_reviews(source.uri)
    elif _ARCHIVE.search(source.uri):
        rows = _reviews(read_archive(source.uri, 4 * (corpus.max_text_chars + 1)))
    else:
        rows = _reviews((f"{source.uri}/{member}", content) for member, content in read_members(source, corpus))
    places = [COLUMNS.index(column) for column in columns]
    return batched(
        (row if isinstance(row, Malformed | Counted) else [row[place] for place in places] for row in rows), columns
    )


def _reviews(files: Iterable[tuple[str, bytes | Malformed | Counted]]) -> Iterator[Row | Malformed | Counted]:
    """Rows of the review files among ``files``; the others of an archive are counted."""
    for path, content in files:
        review = _REVIEW.search(path)
        if isinstance(content, Counted):
            yield content
        elif review is None:
            yield Counted("num_other_files")
        elif isinstance(content, Malformed):
            yield content
        elif not (name := _NAME.fullmatch(review[4])):
            yield Malformed(None, review[1], RowFault.BAD_FILE_NAME, path)
        else:
            is_labelled = review[3] != "unsup"
            split = review[2] if is_labelled else "extra"
            label, rating = (review[3], name[1]) if is_labelled else (None, None)
            text = content.decode("utf-8-sig", errors="surrogateescape")
            yield [review[1].removesuffix(".txt"), _LINE_BREAK.sub("\n", text), split, label, rating]


def _hub_reviews(uri: str) -> Iterator[Row | Malformed | Counted]:
    """Rows of ``text`` and ``label``; IDs consist of the file's name and the row."""
    stem = uri.rpartition("/")[2].removesuffix(".parquet")
    split = stem.partition("-")[0].replace("unsupervised", "extra")
    number = 0
    for rows in read_parquet(uri, ["text", "label"]):
        for text, label in zip(*(column.to_pylist() for column in rows.records.columns), strict=True):
            if label not in _HUB_LABELS:
                yield Malformed(number + 1, f"label {label}: {text}", RowFault.UNKNOWN_LABEL, uri)
            else:
                text = None if text is None else _LINE_BREAK.sub("\n", text)
                yield [f"{stem}/{number:06d}", text, split, _HUB_LABELS[label], None]
            number += 1
