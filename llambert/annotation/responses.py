"""``responses`` as readers see it: the sample joined with its answers (``schema.JOINED_RESPONSES``).

The table itself holds of each sampled record where its answer is, in the answer store; a record that failed for a
reason that may pass has none, and the next start of annotate asks about it again. Then the table's parts are made again
under other names and its manifest lists these.
"""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.answer_store import AnswerReader
from llambert.annotation.part_names import rank_range
from llambert.errors import ErrorKind
from llambert.storage.manifest import Manifest, content_of
from llambert.storage.run_directory import TableDirectory

RESPONSES_VERSION = "answers"  # in the upstream of a manifest: the ``answers_version`` that a table is made of
NUM_FOUND = "num_found"
"""In the counts of responses: answers that were not asked for them; other runs, or other samples of this one, had."""
_OWN = (schema.ERROR, schema.ERROR_KIND)


def iter_answers(
    table: Callable[[str], TableDirectory], columns: list[str], name: str = "responses", texts: str = "sample"
) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    """The ranks and the rows of each part of a complete table of responses, in sampling order.

    ``table``: the run's tables by name; ``texts``: the one that ``name`` was asked about. Without columns of
    ``schema.SAMPLE`` it is not read.
    """
    responses, reader = table(name), AnswerReader(table("answers"), [n for n in columns if n in schema.ANSWERS.names])
    joined = pa.schema([schema.JOINED_RESPONSES.field(column) for column in columns])
    of_sample = [column for column in columns if column in schema.SAMPLE.names and column != schema.RECORD_ID]
    asked_about = table(texts) if of_sample else None
    parts = {rank_range(part.name): part.name for part in asked_about.require_manifest().parts} if asked_about else {}
    for part in responses.require_manifest().parts:
        ranks = rank_range(part.name)
        found = join(responses.read_part(part.name), reader)
        if asked_about:
            rows = asked_about.read_part(parts[ranks], of_sample)
            found |= {column: rows[column] for column in of_sample}
        yield ranks, pa.table({column: found[column] for column in columns}).cast(joined)


def join(rows: pa.Table, reader: AnswerReader) -> dict[str, pa.ChunkedArray]:
    """The columns of some rows of ``schema.RESPONSES``, and those of their answers that ``reader`` reads."""
    answers = reader.read(rows[schema.KEY], rows[schema.ANSWERED_IN])
    has_none = pc.is_null(rows[schema.ANSWERED_IN])
    found = {schema.RECORD_ID: rows[schema.RECORD_ID]}
    for column in answers.column_names:
        values = answers[column]
        if column in _OWN:
            values = pc.if_else(has_none, rows[column], values)
        elif column == schema.FINISH_REASON:
            values = pc.fill_null(values, "error")
        elif not schema.ANSWERS.field(column).nullable:
            values = pc.fill_null(values, "" if pa.types.is_string(values.type) else 0)
        found[column] = values
    return found


def is_transient(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows failed for a reason that may pass."""
    return pc.fill_null(pc.equal(rows[schema.ERROR_KIND], ErrorKind.PASSING), False)


def answers_version(manifest: Manifest | None) -> str:
    """What stands for the answers of a table of responses: another one where records have been answered since."""
    return content_of([*manifest.parts, *manifest.answers]) if manifest else ""
