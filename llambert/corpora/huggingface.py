"""Hugging Face data sets: a hub name, a folder that ``save_to_disk`` wrote, or any folder ``load_dataset`` takes.

Columns are those of the data set; ``split`` is the name of the split where it has no such column.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from llambert import schema
from llambert.corpora.limited import LIMIT_BYTES, ReaderFault, read_limited
from llambert.corpora.rows import Rows, SourceFile, Sources, optional_columns, require_columns
from llambert.corpora.values import complete
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError, one_line
from llambert.printable import SURROGATE, escaped
from llambert.recipe import digest
from llambert.storage.file_hashes import cache_folder
from llambert.storage.reference import find_files, resolve

ROWS_PER_SHARD = 100_000
_ROWS_PER_READ = 1024


def find(corpus: CorpusRecipe) -> Sources:
    """A unit for each file of each split asked for, or for 100,000 rows of a data set that is on disk as a table."""
    units: list[SourceFile] = []
    for name, split in _splits(corpus).items():
        for identity, span in split.units():
            file = identity if isinstance(identity, str) else f"{name}, rows or shard {identity:,}"
            units.append(SourceFile(digest(name, identity), corpus.path, corpus.format, 0, (name,), span, file))
    location = resolve(corpus.path).location
    return Sources(units, find_files(location).num_hidden if _is_folder_of_files(location) else 0)


def read(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The rows of one unit, streamed, decoded in ``LIMIT_BYTES`` of memory."""
    return _limited(f"{corpus.path}, split {source.members[0]!r}, cannot be read", _read, corpus, source, columns)


def _limited(doing: str, read: Callable[..., Iterator[Any]], corpus: CorpusRecipe, *arguments: Any) -> Iterator[Any]:
    """What ``read`` yields in a process of bounded memory, which opens the data set itself, as the library must."""
    import datasets

    arguments = (str(datasets.config.HF_DATASETS_CACHE), corpus, *arguments)
    try:
        yield from read_limited(read, io.BytesIO(), *arguments)
    except MemoryError as error:
        raise InputError(f"corpus.path: {doing} in {LIMIT_BYTES >> 30} GiB of memory ({error})") from error
    except ReaderFault as error:
        raise InputError(f"corpus.path: {doing}: {one_line(error)}") from error


# In the process of bounded memory


def _read(_: IO[bytes], cache: str, corpus: CorpusRecipe, source: SourceFile, columns: list[str]) -> Iterator[Rows]:
    import datasets

    datasets.config.HF_DATASETS_CACHE = Path(cache)
    assert source.span is not None
    [name] = source.members
    split = _splits(corpus)[name].rows(*source.span)
    class_names = {column: kind.names for column, kind in (split.features or {}).items() if hasattr(kind, "names")}
    uri = f"{source.uri} (split {name})"
    for batch in split.with_format("arrow").iter(batch_size=_ROWS_PER_READ):
        if schema.SPLIT not in batch.column_names:
            batch = batch.append_column(schema.SPLIT, pa.array([name] * batch.num_rows, pa.string()))
        missing = require_columns(columns, batch.column_names, uri, optional_columns(corpus))
        present = batch.select([column for column in columns if column not in missing])
        yield complete(present, columns, class_names, corpus.columns, uri)


def _prepare(_: IO[bytes], cache: str, corpus: CorpusRecipe, folder: str) -> Iterator[None]:
    """Convert a data set to the library's tables, in the folder where it keeps them."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = Path(cache)
    _builder(folder, corpus).download_and_prepare()
    yield from ()


@dataclass(frozen=True)
class _Split:
    """A ``datasets.Dataset`` or ``IterableDataset``, and the paths of its files within the data set, where known."""

    loaded: Any
    files: list[str]

    @property
    def _is_table(self) -> bool:
        return hasattr(self.loaded, "select")

    def units(self) -> Iterator[tuple[str | int, tuple[int, int]]]:
        """The identity of each unit, which does not depend on the others, and its rows (of a table) or its shard."""
        if self._is_table:
            for start in range(0, max(self.loaded.num_rows, 1), ROWS_PER_SHARD):
                yield start, (start, min(start + ROWS_PER_SHARD, self.loaded.num_rows))
            return
        num = self.loaded.num_shards
        identities: Sequence[str | int] = self.files if len(self.files) == num else range(num)
        yield from ((identity, (shard, num)) for shard, identity in enumerate(identities))

    def rows(self, first: int, last: int) -> Any:
        """The data set of one unit."""
        return self.loaded.select(range(first, last)) if self._is_table else self.loaded.shard(last, first)


def _splits(corpus: CorpusRecipe) -> dict[str, _Split]:
    """Name -> the splits asked for."""
    import datasets  # takes a second, which no other format should cost

    options = corpus.huggingface
    location = resolve(corpus.path).location
    files: dict[str, list[str]] = {}
    try:
        if _is_saved(location):
            loaded: Any = datasets.load_from_disk(location)
        else:
            folder = _visible_files_folder(location) if _is_folder_of_files(location) else location
            builder = _builder(folder, corpus)
            files = {
                str(split): [_relative_path(str(name), folder) for name in names]
                for split, names in (builder.config.data_files or {}).items()
            }
            if options.streaming:
                loaded = builder.as_streaming_dataset()
            else:
                for _ in _limited(f"{corpus.path} cannot be opened as a data set", _prepare, corpus, folder):
                    pass
                loaded = _builder(folder, corpus).as_dataset()  # opened anew: it knows what was prepared
    except InputError:
        raise
    except Exception as error:  # the library passes on those of every filesystem and format it reads
        raise InputError(f"corpus.path: {corpus.path} cannot be opened as a data set: {one_line(error)}") from error
    splits = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "all"): loaded}
    wanted = options.splits or tuple(splits)
    if missing := [name for name in wanted if name not in splits]:
        raise InputError(f"corpus.huggingface.splits: no split {missing[0]!r}; {corpus.path} has {', '.join(splits)}")
    return {name: _Split(splits[name], files.get(name, [])) for name in wanted}


def _builder(folder: str, corpus: CorpusRecipe) -> Any:
    import datasets
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    options = corpus.huggingface
    builder = datasets.load_dataset_builder(folder, options.config, revision=options.revision)
    if isinstance(builder.config, ParquetConfig):
        builder.config.batch_size = _ROWS_PER_READ  # the library reads a whole row group at a time
    return builder


def _relative_path(name: str, folder: str) -> str:
    """A file's path within a folder, or within a data set of the hub (``hf://datasets/org/name@commit/path``)."""
    return name.partition("@")[2].partition("/")[2] if name.startswith("hf://") else os.path.relpath(name, folder)


def _is_saved(location: str) -> bool:
    """Whether ``save_to_disk`` wrote it: then a list says which files there are."""
    return any((Path(location) / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _is_folder_of_files(location: str) -> bool:
    return Path(location).is_dir() and not _is_saved(location)


def _visible_files_folder(location: str) -> str:
    """The folder, or one of links to its visible files where the library would not read these, or others too.

    The library takes the path for a pattern, reads ``_delta_log`` and the like, and fails at names that are not UTF-8.
    """
    _, files, num_hidden, _ = find_files(location)
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
