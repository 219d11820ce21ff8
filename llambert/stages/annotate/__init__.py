"""Annotate: a random subset of the corpus -> ``sample`` -> what the LLM made of each record -> ``responses``.

``responses`` is in sampling order, part by part, as ``sample`` is: its first n rows are the answers about the
sample of n records, and a reader that wants n of a table that holds more takes the first n.
"""

import time
from dataclasses import dataclass
from typing import Any, TypeGuard

import pyarrow as pa

from llambert import schema
from llambert.annotation.calibration import CONTENT_FREE_TEXTS
from llambert.annotation.ranks import part_name, ranks
from llambert.annotation.responses import AMENDMENTS, amended_part, by_part
from llambert.engines import Answer, StoppedEarly, check, create_engine
from llambert.errors import InputError, last_line
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.progress import Progress
from llambert.execution.progress_file import ProgressFile
from llambert.execution.ray_executor import RAY
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.execution.spans import Span
from llambert.run import Run
from llambert.stages.annotate.stored_answers import (
    BUSY,
    NUM_PASSING,
    StoredAnswers,
    free_amendment_name,
    responses_manifest,
    unanswered,
)
from llambert.stages.sample import draw_sample, prompted_task, warn_of_unlearned
from llambert.storage.run_directory import Manifest, Part
from llambert.training.encoder_trial import require_encoder

_CONTENT_FREE = {"content_free": True}  # the unit of work beside the ranges of ranks
_CONTENT_FREE_PART = "part-0.parquet"


def annotate(run: Run, executor: Executor = RAY) -> Manifest:
    """Ask the LLM about ``annotator.num_records`` records; only about those without a final answer.

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
    # A smaller sample than was answered about has a table too, which may not be there yet.
    has_sample = run.table("sample").read_manifest() is not None
    if has_sample and not wants_content_free and _is_final(manifest, annotator.num_records):
        return manifest
    require_encoder(run)  # before money is spent on answers that it could not learn from
    sample = draw_sample(run)
    num_records = sample.num_kept
    if not wants_content_free and _is_final(manifest, num_records):
        return manifest
    warn_of_unlearned(run, sample)
    stored = StoredAnswers(responses, num_records, annotator.records_per_part)
    stored.read()
    again = stored.ask_again()
    units = [{"start": start, "end": end} for start, end in stored.missing]
    content_free_units = [_CONTENT_FREE] if wants_content_free else []
    work = _Work(stored, sum(unit["num_records"] for unit in again))
    try:
        _ask(run, executor, work, [*content_free_units, *units, *again])
    except InputError as error:
        stored.read()
        if stored.missing or (wants_content_free and not content_free.part_names()):
            raise
        num = f"{work.num_again:,}"
        print(f"annotate: not all records that failed before ({num}) could be asked again: {error}", flush=True)
    if wants_content_free:
        content_free.write_manifest(_content_free_manifest(run))
    return _complete(run, work, is_first_answer=bool(units))


def _is_final(manifest: Manifest | None, num_records: int) -> TypeGuard[Manifest]:
    """Whether a table is complete, and nothing in it to be asked again."""
    return manifest is not None and manifest.num_in >= num_records and not manifest.counts.get(NUM_PASSING)


def _complete(run: Run, work: "_Work", is_first_answer: bool) -> Manifest:
    """Write the manifest over what is committed by now, whoever did it, unless it says so already."""
    responses, annotator = run.table("responses"), run.recipe.annotator
    latest = responses.read_manifest()
    num_records = max(work.stored.num_records, latest.num_in if latest else 0)
    known = {part.name: part for part in (*(latest.parts if latest else ()), *(latest.amendments if latest else ()))}
    stored = StoredAnswers(responses, num_records, annotator.records_per_part, {**known, **work.stored.known})
    stored.read()
    assert not stored.missing, f"{responses.uri}: no answers of ranks {stored.missing}"
    if latest and {part.name for part in stored.all_parts} == known.keys():
        return latest  # complete already, or by another driver on the same run
    if num_failing := stored.counts().get(NUM_PASSING):
        print(
            f"annotate: of {stored.num_records:,} records {num_failing:,} failed for a reason that may pass; the next "
            "start asks again",
            flush=True,
        )
    # The rates of a start that asked a few records again say nothing of the run.
    measures = work.measures() if is_first_answer or latest is None else latest.measures
    return responses.write_manifest(
        responses_manifest(
            run,
            stored,
            latest,
            measures=measures,
            notes=list(dict.fromkeys([*(latest.notes if latest else ()), *work.notes])),
            wall_seconds=work.seconds["wall_seconds"],
        )
    )


def _ask(run: Run, executor: Executor, work: "_Work", units: list[dict[str, Any]]) -> None:
    """Have ``units`` answered, and note in progress.json how far that is or what stopped it."""
    if not units:
        return
    annotator = run.recipe.annotator
    pool = Pool(
        min_actors=annotator.min_replicas,
        max_actors=annotator.max_replicas,
        num_cpus=annotator.cpus_per_replica,
        num_gpus=annotator.gpus_per_replica,
        max_attempts=annotator.max_attempts,
        node_resource=annotator.node_resource,
    )
    work.save_progress()
    if work.num_again:
        print(f"annotate: records that failed before ({work.num_again:,}) are asked again", flush=True)
    try:
        with Progress("annotate", total=work.num_total, done=work.num_done) as progress:
            for outcome in executor.run("annotate", AnnotatePart, (run, work.num_tokens), units, pool):
                for note in work.add(outcome):
                    print(f"annotate: {note}", flush=True)
                progress.advance(work.num_done - progress.done)
    except Exception as error:
        work.save_progress(failure=last_line(error))
        raise


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
        self._sample_parts = [(*ranks(part.name), part.name) for part in self._sample.require_manifest().parts]
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
        started_at, began = time.time(), time.perf_counter()
        try:
            answers = self._engine.annotate(records[schema.TEXT].to_pylist())
        except StoppedEarly as stopped:
            if stopped.answers:
                self._commit(start, records, stopped.answers, time.perf_counter() - began)
            raise
        busy_seconds = time.perf_counter() - began
        part = self._commit(start, records, answers, busy_seconds)
        measures = {"started_at": started_at, "ended_at": time.time()}
        return Outcome([part], busy_seconds, measures, self._metrics.replica, list(self._engine.notes))

    def _answer_again(self, names: list[str], end: int) -> Outcome:
        """Ask about what the parts ``names`` leave without a final answer; commit an amendment to each."""
        amendments = by_part(self._responses.part_names(AMENDMENTS))
        taken = {name: amendments.get(name, []) for name in names}
        pending = {name: unanswered(self._responses, name, taken[name], end) for name in names}
        texts = [text for records in pending.values() for text in records[schema.TEXT].to_pylist()]
        started_at, began = time.time(), time.perf_counter()
        stopped: StoppedEarly | None = None
        try:
            answers = self._engine.annotate(texts)
        except StoppedEarly as error:
            stopped, answers = error, error.answers
        busy_seconds = time.perf_counter() - began
        parts: list[Part] = []
        for name, records in pending.items():
            own, answers = answers[: records.num_rows], answers[records.num_rows :]
            share = busy_seconds * len(own) / max(1, len(texts))
            parts += self._amend(free_amendment_name(name, taken[name]), records, own, share)
        if stopped is not None:
            raise stopped
        measures = {"started_at": started_at, "ended_at": time.time(), "num_again": len(texts)}
        return Outcome(parts, busy_seconds, measures, self._metrics.replica, list(self._engine.notes))

    def _amend(self, name: str, records: pa.Table, answers: list[Answer], busy_seconds: float) -> list[Part]:
        """Commit the final ones of the answers to the first of ``records``; nothing where none is final.

        The counts are what the amendment adds to those of the part it amends.
        """
        rows = [row for row, answer in enumerate(answers) if answer.error_kind != "passing"]
        if not rows:
            return []
        final = [answers[row] for row in rows]
        counts = _counts(final) | {"num_records": 0, NUM_PASSING: -len(final)}
        counts["num_errors"] -= len(final)
        table = responses_table(records.take(rows), final, self._categories, self._model)
        part = self._responses.commit_part(name, table, {**counts, BUSY: round(busy_seconds * 1000)})
        self._metrics.add({**_counts(final), NUM_PASSING: 0}, busy_seconds, name)
        return [part]

    def _answer_content_free(self) -> Outcome:
        started_at = time.time()
        ids = [f"content-free-{n}" for n in range(len(CONTENT_FREE_TEXTS))]
        records = pa.table({schema.RECORD_ID: ids, schema.TEXT: list(CONTENT_FREE_TEXTS)})
        answers = self._engine.annotate(list(CONTENT_FREE_TEXTS))
        rows = responses_table(records, answers, self._categories, self._model)
        self._content_free.commit_part(_CONTENT_FREE_PART, rows)
        return Outcome([], 0.0, {"started_at": started_at, "ended_at": time.time()}, self._metrics.replica)

    def _commit(self, start: int, records: pa.Table, answers: list[Answer], busy_seconds: float) -> Part:
        """Commit the answers to the first ``len(answers)`` of the records that begin at rank ``start``."""
        counts = _counts(answers)
        rows = responses_table(records.slice(0, len(answers)), answers, self._categories, self._model)
        name = part_name(start, start + len(answers))
        part = self._responses.commit_part(name, rows, {**counts, BUSY: round(busy_seconds * 1000)})
        self._metrics.add(counts, busy_seconds, name)
        return part

    def _read(self, start: int, end: int) -> pa.Table:
        """Sample rows of ranks ``start`` to ``end``, whatever parts they lie in."""
        pieces = [
            self._sample.read_part(name, [schema.RECORD_ID, schema.TEXT]).slice(
                max(start - first, 0), min(end, last) - max(start, first)
            )
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
        **{f"num_{kind}": sum(a.error_kind == kind for a in answers) for kind in ("refused", "over_length", "passing")},
    }


def responses_table(records: pa.Table, answers: list[Answer], categories: list[str], model: str) -> pa.Table:
    """The rows of ``schema.RESPONSES`` for ``records`` (record_id, text) and their answers, in the same order."""
    probabilities = [
        None
        if answer.label_probabilities is None
        else [{"category": name, "probability": answer.label_probabilities[name]} for name in categories]
        for answer in answers
    ]
    return pa.table(
        {
            schema.RECORD_ID: records[schema.RECORD_ID],
            schema.TEXT: records[schema.TEXT],
            schema.PROMPT: [answer.prompt for answer in answers],
            schema.RESPONSE: [answer.response for answer in answers],
            schema.FINISH_REASON: [answer.finish_reason for answer in answers],
            schema.LABEL_PROBABILITIES: probabilities,
            schema.NUM_PROMPT_TOKENS: [answer.num_prompt_tokens for answer in answers],
            schema.NUM_RESPONSE_TOKENS: [answer.num_response_tokens for answer in answers],
            schema.NUM_TRUNCATED_TOKENS: [answer.num_truncated_tokens for answer in answers],
            schema.MODEL: [model] * len(answers),
            schema.ERROR: [answer.error for answer in answers],
            schema.ERROR_KIND: [answer.error_kind for answer in answers],
        },
        schema=schema.RESPONSES,
    )


@dataclass
class _Work:
    """What is committed of ``responses``, and the time it took, over all starts of the stage.

    ``num_again``: records that are asked about again, beside those that were never asked about.
    """

    stored: StoredAnswers
    num_again: int

    def __post_init__(self) -> None:
        self._started, self._started_at = time.monotonic(), time.time()
        self._file = ProgressFile(self.stored.responses)
        self._num_asked_again = 0
        self._num_before, self._busy_seconds_before = self.num_done, self.busy_seconds
        self._tokens_before = sum(self.num_tokens)
        self._startup_seconds: float | None = None
        self._replicas: dict[str, Span] = {}
        self.notes: list[str] = []

    @property
    def num_total(self) -> int:
        return self.stored.num_records + self.num_again

    @property
    def num_done(self) -> int:
        return sum(part.num_rows for part in self.stored.parts) + self._num_asked_again

    @property
    def busy_seconds(self) -> float:
        return sum(part.counts.get(BUSY, 0) for part in self.stored.all_parts) / 1000

    @property
    def num_tokens(self) -> tuple[int, int]:
        """Prompt and response tokens."""
        counts = [part.counts for part in self.stored.all_parts]
        return sum(c["num_prompt_tokens"] for c in counts), sum(c["num_response_tokens"] for c in counts)

    @property
    def seconds(self) -> dict[str, float]:
        """``wall_seconds`` and ``busy_seconds`` of all starts together."""
        return {**self._file.seconds(), "busy_seconds": self.busy_seconds}

    def add(self, outcome: Outcome) -> list[str]:
        """One more unit is done; the notes that are new with it."""
        for part in outcome.parts:
            (self.stored.parts if amended_part(part.name) is None else self.stored.amendments).append(part)
            self.stored.known[part.name] = part
        self._num_asked_again += int(outcome.measures.get("num_again", 0))
        new = [note for note in outcome.notes if note not in self.notes]
        self.notes += new
        startup_seconds = outcome.measures["started_at"] - self._started_at
        self._startup_seconds = min(startup_seconds, self._startup_seconds or startup_seconds)
        self._replicas.setdefault(outcome.replica, Span()).add(outcome)
        self._file.write_now_and_then(self.num_done, self.num_total, self.seconds)
        return new

    def save_progress(self, failure: str | None = None) -> None:
        self._file.write(self.num_done, self.num_total, self.seconds, failure)

    def measures(self) -> dict[str, float]:
        """Rates of this start, from the first record asked about: without Ray's start and the model's loading.

        ``busy_share.<n>``: of the n-th replica's time, from its first record to its last, that its engine worked.
        """
        if self._startup_seconds is None:
            return {}
        working_seconds = time.monotonic() - self._started - self._startup_seconds
        shares = {f"busy_share.{n}": span.busy_share for n, span in enumerate(self._replicas.values())}
        return {
            "startup_seconds": self._startup_seconds,
            "records_per_second": (self.num_done - self._num_before) / working_seconds,
            "tokens_per_second": (sum(self.num_tokens) - self._tokens_before) / working_seconds,
            "busy_replicas": (self.busy_seconds - self._busy_seconds_before) / working_seconds,
            **shares,
        }


def _content_free_manifest(run: Run) -> Manifest:
    part = run.table("content_free").committed_part(_CONTENT_FREE_PART)
    return Manifest(
        stage="annotate",
        fingerprint=run.fingerprints["responses"],
        recipe=run.recipe.annotator.model_dump(mode="json"),
        model=run.recipe.annotator.model,
        model_identity=run.model_identities["annotator"],
        num_in=part.num_rows,
        num_kept=part.num_rows,
        wall_seconds=0.0,
        parts=[part],
    )
