"""Whether one stored part is the one that its manifest lists, and holds what its table may hold."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llambert import schema
from llambert.errors import Damaged, InputError, one_line
from llambert.hashing import hash64
from llambert.integrity.finding import FindingKind
from llambert.storage.manifest import Part
from llambert.storage.part_file import is_part, is_unaltered, parse_footer
from llambert.storage.run_directory import TableDirectory

_Problem = tuple[FindingKind, str]
_ROUNDING = 1e-6


@dataclass(frozen=True)
class PartCheck:
    """The result for one part: the hashes of its record IDs, and what is wrong with it."""

    problems: list[_Problem]
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    arrow_schema: pa.Schema | None = None


def fault(error: InputError) -> str:
    """What is wrong, without what to do about it."""
    return error.fault if isinstance(error, Damaged) else str(error)


def check_file(table: TableDirectory, part: Part) -> list[_Problem]:
    """What is wrong with a stored file, whatever it holds."""
    try:
        content = table.read_file(part.name)
    except InputError as error:
        return [(FindingKind.UNREADABLE, fault(error))]
    return _checksum_problems(part, content)


def _checksum_problems(part: Part, content: bytes) -> list[_Problem]:
    if is_part(part.name):
        is_whole = is_unaltered(content, part.sha256)
    else:
        is_whole = hashlib.sha256(content).hexdigest() == part.sha256
    if is_whole and len(content) != part.num_bytes:
        return [(FindingKind.MISCOUNTED, f"it has {len(content):,} bytes, the manifest says {part.num_bytes:,}")]
    problem = f"its content was altered: {len(content):,} bytes, of which the checksum is not the manifest's"
    return [] if is_whole else [(FindingKind.ALTERED, problem)]


def check_part(table: TableDirectory, part: Part, with_ids: bool, categories: Sequence[str]) -> PartCheck:
    """What is wrong with a Parquet part; the hashes of its record IDs if they are asked for."""
    try:
        content = table.read_file(part.name)
    except InputError as error:
        return PartCheck([(FindingKind.UNREADABLE, fault(error))])
    problems = _checksum_problems(part, content)
    try:
        counts = parse_footer(content).counts
        parquet = pq.ParquetFile(io.BytesIO(content))
        names = parquet.schema_arrow.names
        checked = (schema.RECORD_ID, schema.LABEL, schema.SCORE, schema.CONFIDENCE)
        rows = parquet.read([name for name in checked if name in names])
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a damaged name or count is no UTF-8 or JSON
        return PartCheck([*problems, (FindingKind.UNREADABLE, f"it is no whole Parquet file: {one_line(error)}")])
    if rows.num_rows != part.num_rows:
        problem = f"it has {rows.num_rows:,} rows, the manifest says {part.num_rows:,}"
        problems.append((FindingKind.MISCOUNTED, problem))
    if counts != part.model_dump(include=set(counts)):
        problems.append((FindingKind.MISCOUNTED, "its own counts differ from those in the manifest"))
    arrow_schema = parquet.schema_arrow.remove_metadata()
    wrong_types = [(FindingKind.SCHEMA, problem) for problem in _schema_problems(arrow_schema, table.schema)]
    problems += wrong_types or [(FindingKind.VALUE, problem) for problem in _value_problems(rows, categories)]
    if not with_ids or schema.RECORD_ID not in names:
        return PartCheck(problems, arrow_schema=arrow_schema)
    record_ids = rows[schema.RECORD_ID]
    if record_ids.null_count:
        problems.append((FindingKind.NULL_ID, f"{record_ids.null_count} of its rows have no record_id"))
        record_ids = record_ids.drop_null()
    return PartCheck(problems, hash64(record_ids), arrow_schema)


def _schema_problems(found: pa.Schema, declared: pa.Schema | None) -> Iterator[str]:
    for position, column in enumerate(declared or []):
        if position >= len(found) or found.names[position] != column.name:
            yield f"column {position} should be {column.name!r}; it has {', '.join(found.names)}"
            return
        if found.field(position).type != column.type:
            yield f"column {column.name!r} is {found.field(position).type}, the schema says {column.type}"


def _value_problems(rows: pa.Table, categories: Sequence[str]) -> Iterator[str]:
    """Labels that are no category of the task, and scores and confidences that are no probability."""
    if schema.LABEL in rows.column_names:
        labels = rows[schema.LABEL]
        others = labels.filter(pc.invert(pc.is_in(labels, value_set=pa.array(categories, labels.type))))
        if len(others):
            yield f"{len(others):,} of its rows have a label that is no category, for example {others[0].as_py()!r}"
    for name in (schema.SCORE, schema.CONFIDENCE):
        if name not in rows.column_names or not pa.types.is_floating(rows[name].type):
            continue
        values = rows[name].drop_null().to_numpy()
        num = int((~((values >= -_ROUNDING) & (values <= 1 + _ROUNDING))).sum())
        num += rows[name].null_count if name == schema.SCORE else 0
        if num:
            yield f"{num:,} of its rows have a {name} that is no probability"
