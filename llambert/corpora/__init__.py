"""Readers: what a user has as rows of strings. From here on the format does not matter.

A format is a module with two functions: ``find(corpus)``, its units of work in a fixed order, cheap and run once
in the driver; and ``read(source, corpus, columns)``, one unit's ``Rows``, run in a worker, streaming.
``InputError`` for a source that is not what it says; a row that cannot be read is malformed and costs that row.
"""

from collections.abc import Iterator
from typing import Protocol

from llambert.corpora import files, huggingface, imdb, text_files, umls
from llambert.corpora.rows import Rows, SourceFile, Sources
from llambert.corpus_recipe import CorpusRecipe
from llambert.recipe import digest
from llambert.storage.reference import content_identity

READER_VERSION = 3
"""What is read from the same source by the same recipe; part of every fingerprint of a corpus. Raise it when that
changes, so that a corpus read before is never taken for one read now. 2: gold values match by meaning, numbers are
written exactly, a column may appear in any row, UTF-16 is read. 3: record IDs are made of a file's path."""


class Format(Protocol):
    """What a module of this package is to ingest."""

    def find(self, corpus: CorpusRecipe) -> Sources:
        """The units of work in a fixed order; ``InputError`` if there is none."""
        ...

    def read(self, source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
        """The rows of one unit with the named columns; ``InputError`` for a missing column."""
        ...


# Formats with files of their own shape; every other value of corpus.format is read by ``files``.
_FORMATS: dict[str, Format] = {"text_files": text_files, "imdb": imdb, "huggingface": huggingface, "umls": umls}


def find_sources(corpus: CorpusRecipe) -> Sources:
    """The corpus' units of work in a fixed order, and what is beside them."""
    return _FORMATS.get(corpus.format, files).find(corpus)


def identity(corpus: CorpusRecipe) -> str:
    """A hash of what the corpus' source holds now: of the files that are read, and no others."""
    if corpus.format == "umls":  # a release has tens of gigabytes that are not read
        return digest(*map(content_identity, umls.uris(corpus)))
    # What is hidden in a data set's folder can say how the others are read.
    is_data_set = corpus.format == "huggingface"
    return content_identity(corpus.path, corpus.huggingface.revision, hidden=is_data_set, repo_type="dataset")


def read_rows(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The named columns of one unit as strings, some thousand rows at a time."""
    yield from _FORMATS.get(corpus.format, files).read(source, corpus, columns)
