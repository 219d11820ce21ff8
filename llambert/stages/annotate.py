"""Annotate: a random subset of the corpus -> ``sample`` -> what the LLM made of each record -> ``responses``.

``responses`` is in sampling order, part by part, as ``sample`` is: its first n rows are the answers about the
sample of n records, and a reader that wants n of a table that holds more takes the first n.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llambert import schema
from llambert.calibration import CONTENT_FREE_TEXTS
from llambert.engines import Answer, StoppedEarly, check, create_engine
from llambert.errors import last_line
from llambert.progress import Progress
from llambert.run import Run
from llambert.run_directory import Manifest, Part, TableDirectory
from llambert.stages.encoder import require_encoder
from llambert.stages.parts import Outcome, Pool, Span, run_units
from llambert.stages.progress_file import ProgressFile
from llambert.stages.ranks import is_part_name, part_name, ranks
from llambert.stages.replica_metrics import ReplicaMetrics
from llambert.stages.sample import draw_sample, prompted_task

_BUSY = "busy_milliseconds"  # in the counts of each part, so that a kill loses none of it
_CONTENT_FREE = {"content_free": True}  # the unit of work beside the ranges of ranks
_CONTENT_FREE_PART = "part-0.parquet"


def annotate(run: Run) -> Manifest:
    """Ask the LLM about ``annotator.num_records`` records; only about those without a stored response.

    Returns the manifest of ``responses`` (columns ``schema.RESPONSES``). A record the engine failed on is a
    row with ``finish_reason`` ``error``, counted as ``engine_error``. A table that holds as many records as
    the recipe asks for is left alone, Ray is not started then. For contextual calibration the texts without
    content are asked about too, into the table ``content_free``.
    """
    annotator = run.recipe.annotator
    check(annotator, run.task)
    responses, content_free = run.table("responses"), run.table("content_free")
    wants_content_free = run.recipe.parse.prior_correction == "contextual" and not content_free.read_manifest()
    manifest = responses.read_manifest()
    if manifest and manifest.num_in >= annotator.num_records and not wants_content_free:
        return manifest
    require_encoder(run)  # before money is spent on answers that it could not learn from
    sample = draw_sample(run)
    if manifest and manifest.num_in >= sample.num_kept and not wants_content_free:
        return manifest
    names, missing = _cover(responses.part_names(), sample.num_kept, annotator.records_per_part)
    work = _Work(responses, [responses.committed_part(name) for name in names], sample.num_kept)
    units = [{"start": start, "end": end} for start, end in missing]
    _ask(run, work, ([_CONTENT_FREE] if wants_content_free else []) + units)
    if wants_content_free:
        content_free.write_manifest(_content_free_manifest(run))
    manifest = responses.read_manifest()
    if manifest and manifest.num_in >= work.num_done:
        return manifest  # complete already, or of another driver on the same run, that was asked for more
    return responses.write_manifest(_manifest(run, work))


def _ask(run: Run, work: "_Work", units: list[dict[str, Any]]) -> None:
    """Have ``units`` answered, and note in progress.json how far that is or what stopped it."""
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
    try:
        with Progress("annotate", total=work.num_total, done=work.num_done) as progress:
            for outcome in run_units("annotate", AnnotatePart, (run, work.num_tokens), units, pool):
                work.add(outcome)
                progress.advance(sum(part.num_rows for part in outcome.parts))
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
        The unit ``content_free`` is the texts without content instead.
        """
        if unit == _CONTENT_FREE:
            return self._answer_content_free()
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
        return Outcome([part], busy_seconds, measures, self._metrics.replica)

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
        counts = {
            "num_records": len(answers),
            "num_prompt_tokens": sum(a.num_prompt_tokens for a in answers),
            "num_response_tokens": sum(a.num_response_tokens for a in answers),
            "num_truncated": sum(a.num_truncated_tokens > 0 for a in answers),
            "num_errors": sum(a.finish_reason == "error" for a in answers),
        }
        rows = responses_table(records.slice(0, len(answers)), answers, self._categories, self._model)
        name = part_name(start, start + len(answers))
        part = self._responses.commit_part(name, rows, {**counts, _BUSY: round(busy_seconds * 1000)})
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
        },
        schema=schema.RESPONSES,
    )


@dataclass
class _Work:
    """The parts of ``responses`` that are committed, and the time they took, over all starts of the stage."""

    responses: TableDirectory
    parts: list[Part]
    num_total: int

    def __post_init__(self) -> None:
        self._started, self._started_at = time.monotonic(), time.time()
        self._file = ProgressFile(self.responses)
        self._num_before, self._busy_seconds_before = self.num_done, self.busy_seconds
        self._tokens_before = sum(self.num_tokens)
        self._startup_seconds: float | None = None
        self._replicas: dict[str, Span] = {}

    @property
    def num_done(self) -> int:
        return sum(part.num_rows for part in self.parts)

    @property
    def busy_seconds(self) -> float:
        return sum(part.counts.get(_BUSY, 0) for part in self.parts) / 1000

    @property
    def num_tokens(self) -> tuple[int, int]:
        """Prompt and response tokens."""
        counts = [part.counts for part in self.parts]
        return sum(c["num_prompt_tokens"] for c in counts), sum(c["num_response_tokens"] for c in counts)

    @property
    def seconds(self) -> dict[str, float]:
        """``wall_seconds`` and ``busy_seconds`` of all starts together."""
        return {**self._file.seconds(), "busy_seconds": self.busy_seconds}

    def add(self, outcome: Outcome) -> None:
        self.parts += outcome.parts
        startup_seconds = outcome.measures["started_at"] - self._started_at
        self._startup_seconds = min(startup_seconds, self._startup_seconds or startup_seconds)
        self._replicas.setdefault(outcome.replica, Span()).add(outcome)
        self._file.write_now_and_then(self.num_done, self.num_total, self.seconds)

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


def _manifest(run: Run, work: _Work) -> Manifest:
    annotator = run.recipe.annotator
    counts: Counter[str] = Counter()
    for part in work.parts:
        counts.update(part.counts)
    counts.pop(_BUSY, None)
    num_errors = counts["num_errors"]
    return Manifest(
        stage="annotate",
        fingerprint=run.fingerprints["responses"],
        upstream={"sample": run.fingerprints["sample"]},
        recipe=annotator.model_dump(mode="json"),
        model=annotator.model,
        model_identity=run.model_identities["annotator"],
        num_in=work.num_done,
        num_kept=work.num_done - num_errors,
        num_rejected={"engine_error": num_errors} if num_errors else {},
        counts=dict(counts),
        measures=work.measures(),
        wall_seconds=work.seconds["wall_seconds"],
        busy_seconds=work.busy_seconds,
        accelerator_seconds=work.busy_seconds * annotator.gpus_per_replica,
        parts=sorted(work.parts, key=lambda part: ranks(part.name)),
    )


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


def _cover(names: list[str], num_records: int, size: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Committed parts that hold the ranks 0 to ``num_records`` once each, and the ranges that none holds.

    Missing ranges end at multiples of ``size``. Drivers with different ``num_records`` may have committed
    parts that overlap, [768, 1000) beside [768, 1024): of two that begin together the longer one counts, and a
    part that begins within another does not.
    """
    committed = sorted((ranks(name) for name in names if is_part_name(name)), key=lambda r: (r[0], -r[1]))
    used: list[str] = []
    missing: list[tuple[int, int]] = []
    position = 0
    for start, end in [*committed, (num_records, num_records)]:
        start = min(start, num_records)
        while position < start:
            stop = min((position // size + 1) * size, start)
            missing.append((position, stop))
            position = stop
        if start == position < num_records:
            used.append(part_name(start, end))
            position = end
    return used, missing
