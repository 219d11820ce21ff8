"""Annotate: ``sample`` -> what the LLM made of each record -> ``responses``.

``responses`` is in sampling order, part by part, as ``sample`` is: its first n rows are the answers about the
sample of n records, and a reader that wants n of a table that holds more takes the first n.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.annotation.calibration import CONTENT_FREE_TEXTS
from llambert.annotation.part_names import part_name, rank_range
from llambert.annotation.responses import AMENDMENTS, amended_part, by_part
from llambert.annotation.splits import warn_of_unused_annotations
from llambert.annotation.verbalizer import RejectReason
from llambert.engines import Answer, StoppedEarly, check, create_engine
from llambert.errors import ErrorKind, InputError
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.ray_executor import RAY
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.execution.stage_progress import StageProgress
from llambert.run import Run
from llambert.stages.annotate.stored_answers import (
    BUSY_MILLISECONDS,
    NUM_PASSING,
    StoredAnswers,
    free_amendment_name,
    unanswered,
)
from llambert.stages.shots import prompted_task
from llambert.storage.manifest import Manifest, Part, total
from llambert.training.encoder import require_encoder

_CONTENT_FREE = {"content_free": True}  # the unit of work beside the ranges of ranks
_CONTENT_FREE_PART = "part-0.parquet"


def annotate(run: Run, executor: Executor = RAY) -> Manifest:
    """Ask the LLM about the records of ``sample``; only about those without a final answer.

    Returns the manifest of ``responses`` (columns ``schema.RESPONSES``). A record the engine failed on is a
    row with ``finish_reason`` ``error``, counted as rejected. Records that failed for a reason that may pass
    are asked about again by each start (``responses.py``); a complete table stays so where they cannot be. A table
    that holds as many records as the recipe asks for, all with a final answer, is left alone, Ray is not started
    then. For contextual calibration the texts without content are asked about too, into the table ``content_free``.
    """
    annotator = run.recipe.annotator
    check(annotator, run.task)
    responses, content_free = run.table("responses"), run.table("content_free")
    wants_content_free = run.recipe.parse.prior_correction == "contextual" and not content_free.read_manifest()
    manifest = responses.read_manifest()
    if not wants_content_free and _is_final(manifest, annotator.num_records):
        return manifest
    require_encoder(run)  # before money is spent on answers that it could not learn from
    sample = run.table("sample").require_manifest()
    if not wants_content_free and _is_final(manifest, sample.num_kept):
        return manifest
    warn_of_unused_annotations(run.recipe.classifier, sample)
    stored = StoredAnswers(responses, sample.num_kept, annotator.records_per_part)
    again = stored.retry_units()
    missing: list[dict[str, Any]] = [{"start": start, "end": end} for start, end in stored.missing]
    units = [*([_CONTENT_FREE] if wants_content_free else []), *missing, *again]
    num_again = sum(unit["num_records"] for unit in again)
    num_total = stored.num_records + num_again
    progress = StageProgress("annotate", responses, num_total, "records", _num_answered, stored.all_parts)
    if num_again:
        print(f"annotate: records that failed before ({num_again:,}) are asked again", flush=True)
    try:
        if units:
            replicas = (annotator.min_replicas, annotator.max_replicas)
            replica = (annotator.cpus_per_replica, annotator.gpus_per_replica)
            pool = Pool(*replicas, *replica, annotator.max_attempts, annotator.node_resource)
            progress.run(executor, AnnotatePart, (run, _num_tokens(stored.all_parts)), units, pool)
    except InputError as error:
        stored.refresh()
        if stored.missing or (wants_content_free and not content_free.part_names()):
            raise
        print(f"annotate: not all records that failed before ({num_again:,}) could be asked again: {error}", flush=True)
    if wants_content_free:
        run.complete("content_free", [content_free.committed_part(_CONTENT_FREE_PART)])
    return _complete(run, stored, progress, is_first_answer=bool(missing))


def _is_final(manifest: Manifest | None, num_records: int) -> TypeGuard[Manifest]:
    """Whether a table is complete, and nothing in it to be asked again."""
    return manifest is not None and manifest.num_in >= num_records and not manifest.counts.get(NUM_PASSING)


def _num_answered(outcome: Outcome) -> int:
    """Records that were never asked about before, and those that were asked again."""
    num_new = sum(part.num_rows for part in outcome.parts if amended_part(part.name) is None)
    return num_new + int(outcome.measures.get("num_again", 0))


def _num_tokens(parts: Iterable[Part]) -> tuple[int, int]:
    """Prompt and response tokens."""
    counts = total(parts)
    return counts["num_prompt_tokens"], counts["num_response_tokens"]


def _complete(run: Run, before: StoredAnswers, progress: StageProgress, is_first_answer: bool) -> Manifest:
    """Write the manifest over what is committed by now, whoever did it, unless it says so already.

    Another driver may have been asked for more records: its manifest, and its recipe, are then added to.
    """
    responses, annotator = run.table("responses"), run.recipe.annotator
    latest = responses.read_manifest()
    listed = [*latest.parts, *latest.amendments] if latest else []
    known = {**{part.name: part for part in listed}, **before.known, **{part.name: part for part in progress.parts}}
    num_records = max(before.num_records, latest.num_in if latest else 0)
    stored = StoredAnswers(responses, num_records, annotator.records_per_part, known)
    assert not stored.missing, f"{responses.uri}: no answers of ranks {stored.missing}"
    if latest and {part.name for part in stored.all_parts} == {part.name for part in listed}:
        return latest  # complete already, or by another driver on the same run
    counts = total(stored.all_parts)
    busy_seconds = counts.pop(BUSY_MILLISECONDS, 0) / 1000
    if num_failing := counts[NUM_PASSING]:
        print(
            f"annotate: of {stored.num_records:,} records {num_failing:,} failed for a reason that may pass; the next "
            "start asks again",
            flush=True,
        )
    rejected = {
        RejectReason.of_error(kind): counts[f"num_{kind}"] for kind in (ErrorKind.REFUSED, ErrorKind.OVER_LENGTH)
    }
    rejected[RejectReason.ENGINE_ERROR] = counts["num_errors"] - sum(rejected.values())
    is_larger = latest is not None and latest.num_in > annotator.num_records
    times = {"busy_seconds": busy_seconds, "accelerator_seconds": busy_seconds * annotator.gpus_per_replica}
    return run.complete(
        "responses",
        stored.parts,
        {reason: num for reason, num in rejected.items() if num},
        counts=dict(counts),
        amendments=stored.amendments,
        # The rates of a start that asked a few records again say nothing of the run.
        measures=latest.measures if latest and not is_first_answer else _measures(progress),
        notes=list(dict.fromkeys([*(latest.notes if latest else ()), *progress.notes])),
        **({"recipe": latest.recipe} if latest and is_larger else {}),
        **{**progress.seconds, **times},
    )


def _measures(progress: StageProgress) -> dict[str, float]:
    """Rates of this start, from the first record asked about: without Ray's start and the model's loading."""
    if not progress.spans:
        return {}
    seconds = progress.working_seconds
    shares = {key: value for key, value in progress.measures().items() if not key.startswith("replica_rate")}
    return {
        **shares,
        "records_per_second": (progress.num_done - progress.num_done_before) / seconds,
        "tokens_per_second": sum(_num_tokens(progress.new_parts)) / seconds,
        "busy_replicas": total(progress.new_parts)[BUSY_MILLISECONDS] / 1000 / seconds,
    }


@dataclass
class _Asked:
    """One call of the engine: its answers and seconds, and why it stopped early, if it did."""

    started_at: float
    answers: list[Answer] = field(default_factory=list)
    busy_seconds: float = 0.0
    stopped: StoppedEarly | None = None


class AnnotatePart:
    """One replica: loads the recipe's engine once, then answers one range of sample ranks at a time.

    ``num_tokens_before``: prompt and response tokens of the responses stored before this start.
    """

    def __init__(self, run: Run, num_tokens_before: tuple[int, int] = (0, 0)) -> None:
        annotator = run.recipe.annotator
        self._model = annotator.model
        self._categories = run.task.category_names
        self._sample, self._responses = run.table("sample"), run.table("responses")
        self._content_free = run.table("content_free")
        self._sample_parts = [(*rank_range(part.name), part.name) for part in self._sample.require_manifest().parts]
        self._engine = create_engine(annotator, prompted_task(run), num_tokens_before)
        self._metrics = ReplicaMetrics(run.recipe.name, "annotate", annotator.gpus_per_replica)

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Answer the records of ranks ``start`` to ``end`` and commit their part of ``responses``.

        Where the engine stops early, the answers it gave are committed as a shorter part before that is passed on.
        The unit ``content_free`` is the texts without content instead; ``again`` names parts, of which the records
        without a final answer are asked about again.
        """
        if unit == _CONTENT_FREE:
            return self._answer_content_free()
        if "again" in unit:
            return self._answer_again(unit["again"], unit["end"])
        start, end = unit["start"], unit["end"]
        records = self._read(start, end)
        asked = self._ask(records[schema.TEXT].to_pylist())
        parts = [self._commit(start, records, asked.answers, asked.busy_seconds)] if asked.answers else []
        return self._outcome(parts, asked)

    def _ask(self, texts: list[str]) -> "_Asked":
        asked = _Asked(time.time())
        began = time.perf_counter()
        try:
            asked.answers = self._engine.annotate(texts)
        except StoppedEarly as error:
            asked.answers, asked.stopped = error.answers, error
        asked.busy_seconds = time.perf_counter() - began
        return asked

    def _outcome(self, parts: list[Part], asked: "_Asked", **measures: float) -> Outcome:
        """The outcome of a unit whose parts are committed; raises what stopped the engine."""
        if asked.stopped is not None:
            raise asked.stopped
        measures |= {"started_at": asked.started_at, "ended_at": time.time()}
        return Outcome(parts, asked.busy_seconds, measures, self._metrics.replica, list(self._engine.notes))

    def _answer_again(self, names: list[str], end: int) -> Outcome:
        """Ask about what the parts ``names`` leave without a final answer; commit an amendment to each."""
        amendments = by_part(self._responses.part_names(AMENDMENTS))
        taken = {name: amendments.get(name, []) for name in names}
        pending = {name: unanswered(self._responses, name, taken[name], end) for name in names}
        texts = [text for records in pending.values() for text in records[schema.TEXT].to_pylist()]
        asked = self._ask(texts)
        answers, parts = iter(asked.answers), list[Part]()
        for name, records in pending.items():
            own = list(islice(answers, records.num_rows))
            share = asked.busy_seconds * len(own) / max(1, len(texts))
            parts += self._amend(free_amendment_name(name, taken[name]), records, own, share)
        return self._outcome(parts, asked, num_again=len(texts))

    def _amend(self, name: str, records: pa.Table, answers: list[Answer], busy_seconds: float) -> list[Part]:
        """Commit the final ones of the answers to the first of ``records``; nothing where none is final.

        The counts are what the amendment adds to those of the part it amends.
        """
        rows = [row for row, answer in enumerate(answers) if answer.error_kind is not ErrorKind.PASSING]
        if not rows:
            return []
        final = [answers[row] for row in rows]
        counts = _counts(final) | {"num_records": 0, NUM_PASSING: -len(final)}
        counts["num_errors"] -= len(final)
        table = responses_table(records.take(rows), final, self._categories, self._model)
        part = self._responses.commit_part(
            name, table, counts={**counts, BUSY_MILLISECONDS: round(busy_seconds * 1000)}
        )
        self._metrics.add({**_counts(final), NUM_PASSING: 0}, busy_seconds, name)
        return [part]

    def _answer_content_free(self) -> Outcome:
        ids = [f"content-free-{n}" for n in range(len(CONTENT_FREE_TEXTS))]
        records = pa.table([ids, list(CONTENT_FREE_TEXTS), pa.nulls(len(ids))], schema.SAMPLE.names)
        asked = self._ask(list(CONTENT_FREE_TEXTS))
        outcome = self._outcome([], replace(asked, busy_seconds=0.0))
        rows = responses_table(records, asked.answers, self._categories, self._model)
        self._content_free.commit_part(_CONTENT_FREE_PART, rows)
        return outcome

    def _commit(self, start: int, records: pa.Table, answers: list[Answer], busy_seconds: float) -> Part:
        """Commit the answers to the first ``len(answers)`` of the records that begin at rank ``start``."""
        counts = _counts(answers)
        rows = responses_table(records.slice(0, len(answers)), answers, self._categories, self._model)
        name = part_name(start, start + len(answers))
        part = self._responses.commit_part(name, rows, counts={**counts, BUSY_MILLISECONDS: round(busy_seconds * 1000)})
        self._metrics.add(counts, busy_seconds, name)
        return part

    def _read(self, start: int, end: int) -> pa.Table:
        """Sample rows of ranks ``start`` to ``end``, whatever parts they lie in."""
        pieces = [
            self._sample.read_part(name).slice(max(start - first, 0), min(end, last) - max(start, first))
            for first, last, name in self._sample_parts
            if first < end and start < last
        ]
        records = pa.concat_tables(pieces)
        assert records.num_rows == end - start, f"the sample holds {records.num_rows} of ranks {start} to {end}"
        return records


def _counts(answers: list[Answer]) -> dict[str, int]:
    return {
        "num_records": len(answers),
        "num_prompt_tokens": sum(a.num_prompt_tokens for a in answers),
        "num_response_tokens": sum(a.num_response_tokens for a in answers),
        "num_truncated": sum(a.num_truncated_tokens > 0 for a in answers),
        "num_errors": sum(a.finish_reason == "error" for a in answers),
        **{f"num_{kind}": sum(a.error_kind is kind for a in answers) for kind in ErrorKind if kind != ErrorKind.FAILED},
    }


def responses_table(records: pa.Table, answers: list[Answer], categories: list[str], model: str) -> pa.Table:
    """The rows of ``schema.RESPONSES`` for ``records`` (``schema.SAMPLE``) and their answers, in the same order."""
    given = [answer.label_probabilities for answer in answers]
    probabilities = np.zeros((len(given), len(categories)))
    for row, of_answer in enumerate(given):
        if of_answer is not None:
            probabilities[row] = [of_answer[name] for name in categories]
    is_given = np.array([of_answer is not None for of_answer in given], dtype=bool)
    columns = {name: records[name] for name in schema.SAMPLE.names}
    columns |= {field.name: [getattr(answer, field.name) for answer in answers] for field in fields(Answer)}
    columns[schema.LABEL_PROBABILITIES] = schema.encode_probabilities(categories, probabilities, is_given)
    columns[schema.MODEL] = [model] * len(answers)
    return pa.table(columns, schema=schema.RESPONSES)
