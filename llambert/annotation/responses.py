"""``responses`` as readers see it: every record with its latest final answer.

A record that failed for a reason that may pass is asked about again by the next start of annotate. Parts never change,
so the new answers lie beside the part they amend, one file a start, and only final ones::

    responses/<fingerprint>/part-000000000-000000256.parquet
    responses/<fingerprint>/_amendments/part-000000000-000000256-000.parquet …

An amendment holds records that the part and its earlier amendments leave without a final answer, and its name is the
first that is free. If two drivers ask at the same time, the first writer wins. Whoever reads
``*.parquet`` of the folder sees each record once, as it was answered first.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.errors import ErrorKind
from llambert.recipe import digest
from llambert.storage.manifest import Manifest, Part
from llambert.storage.run_directory import TableDirectory

AMENDMENTS = "_amendments"
ANSWERS = "answers"  # in the upstream of a manifest: the version of the answers that a table is made of


def amendment_name(part: str, number: int) -> str:
    """The name of the amendment ``number`` to a part."""
    return f"{AMENDMENTS}/{part.removesuffix('.parquet')}-{number:03d}.parquet"


def amended_part(name: str) -> str | None:
    """The name of the part that an amendment is to; None if this is the name of none."""
    folder, _, file = name.rpartition("/")
    return f"{file.rpartition('-')[0]}.parquet" if folder == AMENDMENTS else None


def by_part(amendments: Iterable[str]) -> dict[str, list[str]]:
    """Part name -> the names of its amendments, in their order."""
    found: dict[str, list[str]] = {}
    for name in sorted(amendments):
        part = amended_part(name)
        assert part is not None, f"{name} amends no part"
        found.setdefault(part, []).append(name)
    return found


def iter_answers(responses: TableDirectory, columns: list[str]) -> Iterator[tuple[Part, pa.Table]]:
    """The parts of a complete table as its manifest lists them, each with its rows as amended."""
    manifest = responses.require_manifest()
    amendments = by_part(part.name for part in manifest.amendments)
    for part in manifest.parts:
        yield part, read_amended(responses, part.name, amendments.get(part.name, []), columns)


def read_amended(responses: TableDirectory, name: str, amendments: list[str], columns: list[str]) -> pa.Table:
    """One part with the rows of its amendments in place of those that they answer, in the part's order."""
    if not amendments:
        return responses.read_part(name, columns)
    needed = [*columns, *(name for name in (schema.RECORD_ID, schema.ERROR_KIND) if name not in columns)]
    rows = responses.read_part(name, needed)
    answers = pa.concat_tables([responses.read_part(amendment, needed) for amendment in amendments])
    place = pc.index_in(rows[schema.RECORD_ID], value_set=answers[schema.RECORD_ID].combine_chunks())
    is_amended = pc.and_(pc.is_valid(place), is_transient(rows)).to_numpy()
    own = np.arange(rows.num_rows)
    order = np.where(is_amended, rows.num_rows + pc.fill_null(place, 0).to_numpy(), own)
    return pa.concat_tables([rows, answers]).take(order).select(columns)


def is_transient(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows failed for a reason that may pass."""
    return pc.fill_null(pc.equal(rows[schema.ERROR_KIND], ErrorKind.PASSING), False)


def answers_version(manifest: Manifest | None) -> str:
    """A digest of the table's amendments, part of the identity of what is read from it; empty without amendments."""
    amendments = manifest.amendments if manifest else []
    return digest(sorted((part.name, part.sha256) for part in amendments)) if amendments else ""
