"""Hugging Face data sets: a hub name, a folder that ``save_to_disk`` wrote, or any folder ``load_dataset`` takes.

Columns are those of the data set; ``split`` is the name of the split where it has no such column.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from llambert import schema
from llambert.corpora.files import complete
from llambert.corpora.rows import Rows, SourceFile, Sources, optional_columns, require_columns
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError, one_line
from llambert.printable import SURROGATE, escaped
from llambert.recipe import digest
from llambert.storage.file_hashes import cache_folder
from llambert.storage.reference import find_files, resolve

ROWS_PER_SHARD = 100_000
_ROWS_PER_READ = 1024


def find(corpus: CorpusRecipe) -> Sources:
    """A unit for each shard of each split asked for: the data set's own files, or 100,000 rows on disk."""
    units: list[SourceFile] = []
    for name, split in _splits(corpus).items():
        for shard in range(split.num_shards):
            span = (shard, split.num_shards)
            units.append(SourceFile(len(units), corpus.path, corpus.format, 0, members=(name,), span=span))
    location = resolve(corpus.path).location
    return Sources(units, find_files(location).num_hidden if _is_folder_of_files(location) else 0)


def read(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The rows of one shard, streamed."""
    assert source.span is not None
    [name], (shard, num_shards) = source.members, source.span
    split = _splits(corpus)[name].shard(num_shards, shard)
    class_names = {column: kind.names for column, kind in (split.features or {}).items() if hasattr(kind, "names")}
    uri = f"{source.uri} (split {name})"
    try:
        for batch in split.with_format("arrow").iter(batch_size=_ROWS_PER_READ):
            if schema.SPLIT not in batch.column_names:
                batch = batch.append_column(schema.SPLIT, pa.array([name] * batch.num_rows, pa.string()))
            missing = require_columns(columns, batch.column_names, uri, optional_columns(corpus))
            present = batch.select([column for column in columns if column not in missing])
            yield complete(present, columns, class_names, corpus.columns, uri)
    except InputError:
        raise
    except Exception as error:  # the library passes on those of every filesystem and format it reads
        raise InputError(f"corpus.path: {corpus.path}, split {name!r}, cannot be read: {one_line(error)}") from error


def _splits(corpus: CorpusRecipe) -> dict[str, Any]:
    """Name -> ``datasets.IterableDataset`` of the splits asked for."""
    import datasets  # takes a second, which no other format should cost

    options = corpus.huggingface
    location = resolve(corpus.path).location
    try:
        if _is_saved(location):
            loaded: Any = datasets.load_from_disk(location)
        else:
            folder = _plain_folder(location) if _is_folder_of_files(location) else location
            loaded = datasets.load_dataset(
                folder, options.config, revision=options.revision, streaming=options.streaming
            )
    except Exception as error:  # the library passes on those of every filesystem and format it reads
        raise InputError(f"corpus.path: {corpus.path} cannot be opened as a data set: {one_line(error)}") from error
    splits = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "all"): loaded}
    wanted = options.splits or tuple(splits)
    missing = [name for name in wanted if name not in splits]
    if missing:
        raise InputError(f"corpus.huggingface.splits: no split {missing[0]!r}; {corpus.path} has {', '.join(splits)}")
    return {name: _iterable(splits[name]) for name in wanted}


def _is_saved(location: str) -> bool:
    """Whether ``save_to_disk`` wrote it: then a list says which files there are."""
    return any((Path(location) / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _is_folder_of_files(location: str) -> bool:
    return Path(location).is_dir() and not _is_saved(location)


def _plain_folder(location: str) -> str:
    """The folder, or one of links to its visible files where the library would not read these, or others too.

    The library takes the path for a pattern, reads ``_delta_log`` and the like, and fails at names that are not UTF-8.
    """
    _, files, num_hidden = find_files(location)
    is_plain = not any(character in location for character in "*?[")
    if is_plain and not num_hidden and not any(SURROGATE.search(name) for name in files):
        return location
    state = [(name, os.stat(name).st_mtime_ns, info["size"]) for name, info in files.items()]
    place = cache_folder() / "folders" / digest(*state)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{place.name}.", dir=place.parent) as partial:
            for name in files:
                link = Path(partial, "links", escaped(os.path.relpath(name, location)))
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(name)
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(f"{partial}/links", place)
        assert place.exists(), f"{place} could not be made"
    return str(place)


def _iterable(split: Any) -> Any:
    """Also a data set on disk as one that streams: memory-mapped, in shards of a fixed size."""
    if hasattr(split, "to_iterable_dataset"):
        return split.to_iterable_dataset(num_shards=max(1, -(-split.num_rows // ROWS_PER_SHARD)))
    return split
