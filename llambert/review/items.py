"""What people are shown: items with a number and a text, and the key that says which record each of them is.

The key stays in the run, in ``review/<key>/<rows>-key.parquet``: people see neither record nor label.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llambert import schema
from llambert.errors import InputError
from llambert.run import Run
from llambert.storage.run_directory import DELETE, TableDirectory

MIXED = "mixed/neutral"
"""Default answer for texts that fit no single category."""
ITEM, REFERENCE, OTHER_ANSWER = "item", "reference", "other_answer"
KEY = pa.schema(
    [
        pa.field(ITEM, pa.string(), nullable=False),
        pa.field(schema.RECORD_ID, pa.string(), nullable=False),
        pa.field(schema.TEXT_HASH, pa.uint64(), nullable=False),
        pa.field(OTHER_ANSWER, pa.string(), nullable=False),
        pa.field(REFERENCE, pa.string()),
        pa.field(schema.LABEL, pa.string()),
        pa.field(schema.SCORE, pa.float32()),
    ]
)
"""The record of each item; never shown to the people who answer. ``other_answer``: what they may say besides the
categories. Of a sample of disagreements ``reference`` is the gold or silver label, ``label`` and ``score`` are the
classifier's; null in other samples."""
_KEY_PART = "key.parquet"


@dataclass(frozen=True)
class Sample:
    """The items that people are shown, in order."""

    items: list[str]
    texts: list[str]
    question: str
    answers: list[str]


def check_other_answer(run: Run, mixed: str) -> None:
    """``InputError`` if the word for texts that fit no single category is a category."""
    if mixed.strip().casefold() in (name.casefold() for name in run.task.category_names):
        raise InputError(f"--mixed: {mixed!r} is a category of the task; choose another word")


def number_items(key: str, num: int) -> list[str]:
    """The numbers of the ``num`` items of one sample."""
    return [f"{key}-{number:04d}" for number in range(1, num + 1)]


def store_key(run: Run, key: str, rows: pa.Table) -> None:
    """Store ``rows`` (``KEY``) unless a longer key of the same settings is stored: a shorter sample is its prefix."""
    table = _key_table(run, key)
    manifest = table.read_manifest()
    if manifest and manifest.num_kept >= rows.num_rows:
        return
    part = table.commit_part(f"{rows.num_rows:06d}-{_KEY_PART}", rows)
    table.complete("review", [part])


def read_keys(run: Run, items: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Item -> its row of ``KEY``, of all the samples that ``items`` belong to.

    ``InputError``: an item of another run, or one that was never exported.
    """
    wanted = set(items)
    if not wanted:
        raise InputError("no item has an answer; the column is 'answer', and empty ones are left out")
    found: dict[str, dict[str, Any]] = {}
    for key in sorted(keys_of(wanted)):
        table = _key_table(run, key)
        if table.read_manifest() is None:
            first = min(item for item in wanted if item.rpartition("-")[0] == key)
            raise InputError(f"item {first!r}: no sample of this run; is the recipe the one it was exported with?")
        found |= {row[ITEM]: row for row in table.read().to_pylist()}
    if unknown := sorted(wanted - found.keys()):
        raise InputError(f"item {unknown[0]!r} was never exported, nor were {len(unknown) - 1} others")
    return found


def keys_of(items: Iterable[str]) -> set[str]:
    """The keys of the samples that ``items`` belong to."""
    return {item.rpartition("-")[0] for item in items}


def _key_table(run: Run, key: str) -> TableDirectory:
    return run.directory.table("review", key or "none", KEY, DELETE)
