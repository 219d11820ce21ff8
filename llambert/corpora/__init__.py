"""Readers: the user's files, of any format, as rows of strings.

A format is a module with two functions: ``find(corpus)`` lists its units of work in a fixed order; it is cheap and
runs once in the driver. ``read(source, corpus, columns)`` streams the ``Rows`` of one unit and runs in a worker.
``InputError`` for a source that is not what it says. A row that cannot be read is malformed; no other row is lost.
"""

from collections.abc import Iterator
from typing import Protocol

from llambert.corpora import files, huggingface, imdb, text_files, umls
from llambert.corpora.rows import Rows, SourceFile, Sources
from llambert.corpus_recipe import CorpusRecipe

READER_VERSION = 5
"""Version of the readers, part of every fingerprint of a corpus. Raise it when the same source and recipe give other
rows, so that an older corpus is never reused. 2: gold values match by meaning, numbers are
written exactly, a column may appear in any row, UTF-16 is read. 3: record IDs contain a hash of the file's path.
4: long rows of Parquet files are cut into parts by their size. 5: a part ends at the row
that fills it, however many are read at once."""


class Format(Protocol):
    """What ingest needs of a format's module."""

    def find(self, corpus: CorpusRecipe) -> Sources:
        """The units of work in a fixed order; ``InputError`` if there is none."""
        ...

    def read(self, source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
        """The rows of one unit with the named columns; ``InputError`` for a missing column."""
        ...


# Formats with files of their own shape; every other value of corpus.format is read by ``files``.
_FORMATS: dict[str, Format] = {"text_files": text_files, "imdb": imdb, "huggingface": huggingface, "umls": umls}


def find_sources(corpus: CorpusRecipe) -> Sources:
    """The corpus' units of work in a fixed order, and the number of hidden files."""
    return _FORMATS.get(corpus.format, files).find(corpus)


def read_rows(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The named columns of one unit as strings, some thousand rows at a time."""
    yield from _FORMATS.get(corpus.format, files).read(source, corpus, columns)
