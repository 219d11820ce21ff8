"""Readers: what a user has, file by file, as tables of strings. From here on the format does not matter."""

from llambert.corpora.files import SourceFile, find_source_files, read_tables

__all__ = ["SourceFile", "find_source_files", "read_tables"]
