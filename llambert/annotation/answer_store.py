"""The answers of one annotator, kept once: what any run that shares the store has asked is found, not asked again.

::

    STORE/<asker>/asked.json                       how it was asked: model, mode, decoding …
    STORE/<asker>/part-<run>-<content>.parquet     answers (``schema.ANSWERS``), as they came; never changed
    STORE/<asker>/_index/part-<content>.parquet    the keys of many parts, so that a lookup need not read each of them

A part is named after the table of responses that it was asked for and after its keys: of two writers that ask the same
questions at once the first one wins. Two parts may hold an answer to one question, if two runs asked it in the same
minutes; the first in the order of names counts. The index can be deleted at any time. A part that no
``responses`` names can be deleted too, and so can the folder of an asker whom no run asks any more.
"""

import contextlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.errors import Damaged, InputError
from llambert.recipe import digest
from llambert.storage.atomic import create_atomically, remove_temporaries
from llambert.storage.locations import remove_folder
from llambert.storage.manifest import Part
from llambert.storage.part_file import PartCounts
from llambert.storage.run_directory import TableDirectory

ASKED = "asked.json"
_INDEX = "_index"
_INDEX_SCHEMA = pa.schema([schema.ANSWERS.field(schema.KEY), pa.field(schema.ANSWERED_IN, pa.string())])
# A lookup reads so many parts one by one before their keys are put into a new index.
_MAX_NOT_INDEXED = 64
_NUM_READERS = 8
# A write takes seconds, or minutes on a disk that hangs; clocks of machines that share one differ by less than this.
_ABANDONED_AFTER_S = 24 * 3600.0
_NO_KEYS = pa.array([], schema.ANSWERS.field(schema.KEY).type)


def is_beside_parts(table: TableDirectory, name: str) -> bool:
    """Whether a file of this path in an asker's folder is one of the store's that is no part, or not written yet."""
    is_hidden = any(step.startswith(".") for step in name.split("/"))
    is_empty_index = name == _INDEX and table.filesystem.isdir(table.path(name))
    return name == ASKED or name.startswith(f"{_INDEX}/") or is_hidden or is_empty_index


def names_keys(name: str, keys: pa.ChunkedArray) -> bool:
    """Whether a part of this name holds the answers to ``keys``, in this order."""
    return name.endswith(f"-{_content(keys)}.parquet")


def _content(keys: pa.ChunkedArray) -> str:
    return sha256(b"".join(keys.to_pylist())).hexdigest()[:12]


class AnswerStore:
    """The store of one asker as one process sees it.

    ``table``: its folder, with ``schema.ANSWERS``. Memory: about 60 bytes an answer once ``find`` was called.
    """

    def __init__(self, table: TableDirectory) -> None:
        self._table = table
        self._keys: dict[str, pa.Array] = {}  # part -> its keys
        self._indexed: set[str] = set()
        self._sorted: tuple[list[str], np.ndarray, pa.Array] | None = None  # names, the part of each key, the keys

    @property
    def num_answers(self) -> int:
        """How many answers there were at the last lookup."""
        return sum(map(len, self._keys.values()))

    def find(self, keys: pa.Array) -> pa.Array:
        """For each key the name of the part that holds its answer, null where none does; as the store is now."""
        self._refresh()
        if self._sorted is None:
            names = sorted(self._keys)
            owners = np.repeat(np.arange(len(names)), [len(self._keys[name]) for name in names])
            self._sorted = names, owners, pa.concat_arrays([_NO_KEYS, *(self._keys[name] for name in names)])
        names, owners, stored = self._sorted
        place = pc.index_in(keys, value_set=stored)
        owner = pa.array(owners, pa.int64()).take(place)
        return pa.array(names, pa.string()).take(owner)

    def commit(self, asked_for: str, answers: pa.Table, **counts: Unpack[PartCounts]) -> Part:
        """Keep answers (``schema.ANSWERS``) for good; what the store then holds of them.

        ``asked_for``: the fingerprint of the table of responses that they are asked for.
        """
        name = f"part-{asked_for}-{_content(answers[schema.KEY])}.parquet"
        return self._table.commit_part(name, answers, **counts)

    def describe(self, asking: Mapping[str, Any]) -> None:
        """Say in the folder whose answers it holds, if nothing says so yet."""
        content = json.dumps(asking, indent=1, sort_keys=True, ensure_ascii=False).encode()
        create_atomically(self._table.filesystem, self._table.path(ASKED), content)

    def save_index(self) -> None:
        """Write the keys of all parts into one file if many of them are in none, and remove the files before it.

        Temporary files of writers that were killed are swept: those of a day ago, since other runs may be writing.
        """
        remove_temporaries(self._table.filesystem, self._table.path(), older_than_s=_ABANDONED_AFTER_S)
        self._refresh()
        if len(self._keys.keys() - self._indexed) < max(_MAX_NOT_INDEXED, len(self._indexed) // 8):
            return
        before = self._table.part_names(_INDEX)
        names = sorted(self._keys)
        rows = [
            pa.table([self._keys[name], pa.array([name] * len(self._keys[name]), pa.string())], schema=_INDEX_SCHEMA)
            for name in names
        ]
        name = f"{_INDEX}/part-{digest(names)}.parquet"
        if name in before:  # it says of each part what is not known of it: it cannot be read
            self._remove(name)
        replace(self._table, schema=_INDEX_SCHEMA).commit_part(name, pa.concat_tables(rows))
        for old in before:
            if old != name:
                self._remove(old)
        self._indexed = set(names)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # another run has removed it
            remove_folder(self._table.filesystem, self._table.path(name))

    def _refresh(self) -> None:
        names = self._table.part_names()
        gone = self._keys.keys() - set(names)
        new = [name for name in names if name not in self._keys]
        if not gone and not new:
            return
        for name in gone:  # pruned, or set aside by a repair
            del self._keys[name]
        self._sorted = None
        if len(new) >= _MAX_NOT_INDEXED:
            self._read_index(set(new))
            new = [name for name in new if name not in self._keys]
        with ThreadPoolExecutor(_NUM_READERS) as readers:
            self._keys.update(zip(new, readers.map(self._read_keys, new), strict=True))

    def _read_keys(self, name: str) -> pa.Array:
        return self._table.read_part(name, [schema.KEY])[schema.KEY].combine_chunks()

    def _read_index(self, wanted: set[str]) -> None:
        for index in self._table.part_names(_INDEX):
            try:
                rows = replace(self._table, schema=_INDEX_SCHEMA).read_part(index)
            except InputError:  # damaged, or removed by another run: the parts say the same
                continue
            names = rows[schema.ANSWERED_IN].combine_chunks()
            ends = np.flatnonzero(np.asarray(pc.not_equal(names[1:], names[:-1]))) + 1
            starts = [0, *ends.tolist()] if len(names) else []
            for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
                if (name := names[start].as_py()) in wanted:
                    self._keys[name] = rows[schema.KEY].slice(start, end - start).combine_chunks()
                    self._indexed.add(name)


class AnswerReader:
    """Reads answers by part and key; keeps the parts read last."""

    _MAX_KEPT = 16

    def __init__(self, table: TableDirectory, columns: Sequence[str]) -> None:
        self._table, self._columns = table, list(columns)
        self._kept: OrderedDict[str, pa.Table] = OrderedDict()

    def read(self, keys: pa.ChunkedArray, parts: pa.ChunkedArray) -> pa.Table:
        """The answers to ``keys``, each in the part of that name: a row each, of nulls where the part is null.

        ``Damaged`` where a part does not hold the answer that it should.
        """
        names = pc.unique(parts).drop_null().to_pylist()
        tables = [self._part(name) for name in names]
        if not tables:
            return pa.table({name: pa.nulls(len(keys), schema.ANSWERS.field(name).type) for name in self._columns})
        rows = pa.concat_tables(tables)
        # A key that two of the parts hold is looked up in its own one.
        starts = np.cumsum([0, *(table.num_rows for table in tables)])
        place = pa.nulls(len(keys), pa.int64())
        for number, (name, table) in enumerate(zip(names, tables, strict=True)):
            is_here = pc.fill_null(pc.equal(parts, name), False)
            here = pc.index_in(keys, value_set=table[schema.KEY].combine_chunks()).cast(pa.int64())
            if pc.any(pc.and_(is_here, pc.is_null(here))).as_py():
                raise Damaged(f"{self._table.uri}/{name}", "it lacks answers that it had", self._table.remedy)
            place = pc.if_else(is_here, pc.add(here, int(starts[number])), place)
        return rows.select(self._columns).take(place)

    def _part(self, name: str) -> pa.Table:
        if name not in self._kept:
            self._kept[name] = self._table.read_part(name, list(dict.fromkeys([schema.KEY, *self._columns])))
            if len(self._kept) > self._MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]
