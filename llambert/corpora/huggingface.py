"""Hugging Face data sets: a hub name, a folder that ``save_to_disk`` wrote, or any folder ``load_dataset`` takes.

Columns are those of the data set; ``split`` is the name of the split where it has no such column.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from llambert import schema
from llambert.corpora.files import complete
from llambert.corpora.rows import Rows, SourceFile, optional_columns, require_columns
from llambert.errors import InputError, one_line
from llambert.recipe import CorpusRecipe
from llambert.reference import resolve

_ROWS_PER_SHARD = 100_000
_ROWS_PER_READ = 1024


def find(corpus: CorpusRecipe) -> list[SourceFile]:
    """A unit for each shard of each split asked for: the data set's own files, or 100,000 rows on disk."""
    units: list[SourceFile] = []
    for name, split in _splits(corpus).items():
        for shard in range(split.num_shards):
            span = (shard, split.num_shards)
            units.append(SourceFile(len(units), corpus.path, corpus.format, 0, members=(name,), span=span))
    return units


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
        if any((Path(location) / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded: Any = datasets.load_from_disk(location)
        else:
            loaded = datasets.load_dataset(
                location, options.config, revision=options.revision, streaming=options.streaming
            )
    except Exception as error:  # the library passes on those of every filesystem and format it reads
        raise InputError(f"corpus.path: {corpus.path} cannot be opened as a data set: {one_line(error)}") from error
    splits = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "all"): loaded}
    wanted = options.splits or tuple(splits)
    missing = [name for name in wanted if name not in splits]
    if missing:
        raise InputError(f"corpus.huggingface.splits: no split {missing[0]!r}; {corpus.path} has {', '.join(splits)}")
    return {name: _iterable(splits[name]) for name in wanted}


def _iterable(split: Any) -> Any:
    """Also a data set on disk as one that streams: memory-mapped, in shards of a fixed size."""
    if hasattr(split, "to_iterable_dataset"):
        return split.to_iterable_dataset(num_shards=max(1, -(-split.num_rows // _ROWS_PER_SHARD)))
    return split
