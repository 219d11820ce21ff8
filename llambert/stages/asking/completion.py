"""The table of responses made of what the answer store holds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.answer_store import AnswerReader
from llambert.annotation.part_names import part_name
from llambert.annotation.responses import NUM_FOUND, join
from llambert.annotation.verbalizer import RejectReason
from llambert.errors import ErrorKind
from llambert.execution.stage_progress import StageProgress
from llambert.recipe import digest
from llambert.run import Run
from llambert.stages.asking.ordered_questions import OrderedQuestions
from llambert.storage.manifest import Manifest, Part, total
from llambert.storage.run_directory import TableDirectory

NUM_PASSING = f"num_{ErrorKind.PASSING}"
TEXTS = "texts"
"""In the upstream of a table of responses: the content of the table whose texts were asked about."""
_BUSY_MILLISECONDS = "busy_milliseconds"
_COUNTED = [
    schema.NUM_PROMPT_TOKENS,
    schema.NUM_RESPONSE_TOKENS,
    schema.NUM_TRUNCATED_TOKENS,
    schema.FINISH_REASON,
    schema.ERROR,
    schema.ERROR_KIND,
    schema.LABEL_PROBABILITIES,
    schema.BUSY_SECONDS,
]


def write_responses(
    run: Run,
    name: str,
    questions: OrderedQuestions,
    answered_in: pa.Array,
    failures: Mapping[str, tuple[str, str]],
    progress: StageProgress,
) -> Manifest:
    """Write the manifest of responses ``name`` over the answers that are stored by now, unless it says the same.

    ``failures``: hexadecimal key -> error and its kind, of questions without an answer; those of earlier starts are in
    the table that they left.
    """
    table, annotator, stage = run.table(name), run.recipe.annotator, run.tables[name].stage
    latest = table.read_manifest()
    rows = _rows(questions, answered_in, {**_earlier_failures(table, latest), **failures})
    reader = AnswerReader(run.table("answers"), _COUNTED)
    parts = []
    for start, end in zip([0, *questions.ends], questions.ends, strict=False):
        piece = rows.slice(start, end - start)
        counts = _count(piece, reader, run.task.category_names, table.fingerprint)
        parts.append(table.commit_part(part_name(start, end, _content(piece)), piece, counts=counts))
    if questions.num_content_free:
        _write_content_free(run, rows.slice(questions.num_records))
    is_listed = latest is not None and [part.name for part in parts] == [part.name for part in latest.parts]
    if latest and is_listed and latest.belongs_with == run.companions(name):
        return latest  # complete already, or by another driver on the same run
    counts = total(parts)
    busy_seconds = counts.pop(_BUSY_MILLISECONDS, 0) / 1000
    _print_what_is_missing(stage, counts, len(rows))
    rejected = {
        RejectReason.of_error(kind): counts[f"num_{kind}"] for kind in (ErrorKind.REFUSED, ErrorKind.OVER_LENGTH)
    }
    rejected[RejectReason.ENGINE_ERROR] = counts["num_errors"] - sum(rejected.values())
    times = {"busy_seconds": busy_seconds, "accelerator_seconds": busy_seconds * annotator.gpus_per_replica}
    return run.complete(
        name,
        parts,
        {reason: num for reason, num in rejected.items() if num},
        {TEXTS: run.table(run.tables[name].texts).require_manifest().content},
        counts=dict(counts),
        answers=_answer_parts(run, rows.slice(0, questions.num_records)),
        # The rates of a start that asked a few records again say nothing of the run.
        measures=latest.measures if latest else _measures(progress),
        notes=list(dict.fromkeys([*(latest.notes if latest else ()), *progress.notes])),
        **{**progress.seconds, **times},
    )


def _print_what_is_missing(stage: str, counts: Mapping[str, int], num_records: int) -> None:
    if num_failing := counts[NUM_PASSING]:
        print(
            f"{stage}: of {num_records:,} records {num_failing:,} failed for a reason that may pass; the next start "
            "asks again",
            flush=True,
        )


def _rows(questions: OrderedQuestions, answered_in: pa.Array, failures: Mapping[str, tuple[str, str]]) -> pa.Table:
    """``schema.RESPONSES`` of every rank, and of the texts without content after them."""
    errors: list[tuple[str | None, str | None]] = [(None, None)] * len(answered_in)
    for rank in np.flatnonzero(np.asarray(answered_in.is_null())).tolist():
        errors[rank] = failures[questions.keys[rank].as_py().hex()]
    columns = [
        questions.record_ids,
        questions.keys,
        answered_in,
        [one for one, _ in errors],
        [two for _, two in errors],
    ]
    return pa.table(dict(zip(schema.RESPONSES.names, columns, strict=True)), schema=schema.RESPONSES)


def have_failed(run: Run, name: str, complete: Manifest, keys: pa.Array) -> bool:
    """Whether the complete table says of each of these questions why it has no answer; not of one that was lost."""
    return {key.hex() for key in keys.to_pylist()} <= _earlier_failures(run.table(name), complete).keys()


def _earlier_failures(table: TableDirectory, latest: Manifest | None) -> dict[str, tuple[str, str]]:
    if latest is None or not latest.counts.get(NUM_PASSING):
        return {}
    columns = [schema.KEY, schema.ANSWERED_IN, schema.ERROR, schema.ERROR_KIND]
    tables = (table.read_part(part.name, columns) for part in latest.parts)
    open_rows = (row for rows in tables for row in rows.filter(pc.is_null(rows[schema.ANSWERED_IN])).to_pylist())
    return {row[schema.KEY].hex(): (row[schema.ERROR], row[schema.ERROR_KIND]) for row in open_rows}


def _content(rows: pa.Table) -> str:
    """Twelve hexadecimal digits that stand for some rows of the table."""
    columns = rows.set_column(1, schema.KEY, [[key.hex() for key in rows[schema.KEY].to_pylist()]])
    return digest(columns.to_pydict())


def _count(rows: pa.Table, reader: AnswerReader, categories: list[str], fingerprint: str) -> dict[str, int]:
    answers = pa.table(join(rows, reader))
    known = rows[schema.ANSWERED_IN].drop_null()
    own = pc.sum(pc.starts_with(known, f"part-{fingerprint}-")).as_py() or 0
    busy_seconds = pc.sum(answers[schema.BUSY_SECONDS]).as_py() or 0.0
    return {
        **count_answers(answers, categories),
        NUM_FOUND: len(known) - own,
        _BUSY_MILLISECONDS: round(busy_seconds * 1000),
    }


def count_answers(answers: pa.Table, categories: list[str]) -> dict[str, int]:
    """Counts of some answers, as the manifest sums them up; at least the columns of ``schema.ANSWERS`` counted here.

    ``num_tied``: of how many two categories have exactly the highest probability.
    """

    def num(column: str, value: str) -> int:
        return int(pc.sum(pc.equal(answers[column], value)).as_py() or 0)

    probabilities = schema.decode_probabilities(answers[schema.LABEL_PROBABILITIES], categories)
    best = probabilities.max(axis=1, initial=0.0)
    tied = (probabilities == best[:, None]).sum(axis=1) > 1
    return {
        "num_records": answers.num_rows,
        **{
            name: int(pc.sum(answers[name]).as_py() or 0)
            for name in (schema.NUM_PROMPT_TOKENS, schema.NUM_RESPONSE_TOKENS)
        },
        "num_truncated": int(pc.sum(pc.greater(answers[schema.NUM_TRUNCATED_TOKENS], 0)).as_py() or 0),
        "num_errors": num(schema.FINISH_REASON, "error"),
        "num_tied": int((tied & (best > 0)).sum()),
        **{f"num_{kind}": num(schema.ERROR_KIND, kind) for kind in ErrorKind if kind != ErrorKind.FAILED},
    }


def _answer_parts(run: Run, rows: pa.Table) -> list[Part]:
    """The parts of the store that hold the answers of some rows."""
    return run.table("answers").committed_parts(set(pc.unique(rows[schema.ANSWERED_IN]).drop_null().to_pylist()))


def _write_content_free(run: Run, rows: pa.Table) -> None:
    name = part_name(0, rows.num_rows, _content(rows))
    part = run.table("content_free").commit_part(name, rows)
    run.complete("content_free", [part], answers=_answer_parts(run, rows))


def _measures(progress: StageProgress) -> dict[str, Any]:
    """Rates of this start, from the first record asked about: without Ray's start and the model's loading."""
    if not progress.spans:
        return {}
    seconds, counts = progress.working_seconds, total(progress.new_parts)
    shares = {key: value for key, value in progress.measures().items() if not key.startswith("replica_rate")}
    return {
        **shares,
        "records_per_second": (progress.num_done - progress.num_done_before) / seconds,
        "tokens_per_second": (counts[schema.NUM_PROMPT_TOKENS] + counts[schema.NUM_RESPONSE_TOKENS]) / seconds,
        "busy_replicas": progress.busy_seconds / seconds,
    }
