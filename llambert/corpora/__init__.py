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
from llambert.recipe import digest
from llambert.storage.reference import content_identity

READER_VERSION = 3
"""Version of the readers, part of every fingerprint of a corpus. Raise it when the same source and recipe give other
rows, so that an older corpus is never reused. 2: gold values match by meaning, numbers are
written exactly, a column may appear in any row, UTF-16 is read. 3: record IDs contain a hash of the file's path."""


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


def identity(corpus: CorpusRecipe) -> str:
    """A hash of what the corpus' source holds now: of the files that are read, and no others."""
    if corpus.format == "umls":  # a release has tens of gigabytes that are not read
        return digest(*map(content_identity, umls.uris(corpus)))
    # Hidden files in a data set's folder can decide how the others are read.
    is_data_set = corpus.format == "huggingface"
    return content_identity(corpus.path, corpus.huggingface.revision, hidden=is_data_set, repo_type="dataset")


def read_rows(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The named columns of one unit as strings, some thousand rows at a time."""
    yield from _FORMATS.get(corpus.format, files).read(source, corpus, columns)
