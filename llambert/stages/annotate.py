"""Annotate: a random subset of the corpus -> ``sample`` -> what the LLM made of each record -> ``responses``.

Both tables are in the order of the sampling hash, part by part (``part-<first rank>-<end rank>``, the end not
included), so the first n rows of either are the uniform sample of n records: a reader that wants n records of a
table that holds more takes the first n. Gold labels are never read here.
"""

import logging
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.engines import Answer, StoppedEarly, check, create_engine
from llambert.progress import Progress
from llambert.run import Run
from llambert.run_directory import Manifest, Part, TableDirectory
from llambert.sampling import IdSource, Selection, select
from llambert.stages.parts import Outcome, Pool, run_units

_PART_NAME = re.compile(r"part-(\d{9,})-(\d{9,})\.parquet")
_BUSY = "busy_milliseconds"  # in the counts of each part, so that a kill loses none of it
_PROGRESS_EVERY_S = 5.0
# While the sample is put in order at most this many windows of it are files on the driver's disk, and one is in
# its memory: a 64th of the sample's texts, or 16 parts where that is more.
_MAX_WINDOWS = 64
_MIN_PARTS_PER_WINDOW = 16


logger = logging.getLogger(__name__)


def annotate(run: Run) -> Manifest:
    """Ask the LLM about ``annotator.num_records`` records; only about those without a stored response.

    Returns the manifest of ``responses`` (columns ``schema.RESPONSES``). A record the engine failed on is a
    row with ``finish_reason`` ``error``, counted as ``engine_error``. A table that holds as many records as
    the recipe asks for is left alone, Ray is not started then.
    """
    annotator = run.recipe.annotator
    check(annotator, run.task)
    responses = run.table("responses")
    manifest = responses.read_manifest()
    if manifest and manifest.num_in >= annotator.num_records:
        return manifest
    sample = draw_sample(run)
    if manifest and manifest.num_in >= sample.num_kept:
        return manifest
    names, missing = _cover(responses.part_names(), sample.num_kept, annotator.records_per_part)
    work = _Work(responses, [responses.committed_part(name) for name in names], sample.num_kept)
    pool = Pool(
        min_actors=annotator.min_replicas,
        max_actors=annotator.max_replicas,
        num_cpus=annotator.cpus_per_replica,
        num_gpus=annotator.gpus_per_replica,
        max_attempts=annotator.max_attempts,
    )
    units = [{"start": start, "end": end} for start, end in missing]
    work.save_progress()
    try:
        with Progress("annotate", total=sample.num_kept, done=work.num_done) as progress:
            for outcome in run_units("annotate", AnnotatePart, (run, work.num_tokens), units, pool):
                work.add(outcome)
                progress.advance(sum(part.num_rows for part in outcome.parts))
    except Exception as error:
        work.save_progress(failure=f"{type(error).__name__}: {str(error).strip().rpartition(chr(10))[2]}")
        raise
    manifest = responses.read_manifest()
    if manifest and manifest.num_in > work.num_done:
        return manifest  # of another driver on the same run, that was asked for more
    return responses.write_manifest(_manifest(run, work))


class AnnotatePart:
    """One replica: loads the recipe's engine once, then answers one range of sample ranks at a time.

    ``num_tokens_before``: prompt and response tokens of the responses stored before this start.
    """

    def __init__(self, run: Run, num_tokens_before: tuple[int, int] = (0, 0)) -> None:
        annotator = run.recipe.annotator
        self._model = annotator.model
        self._categories = run.task.category_names
        self._sample, self._responses = run.table("sample"), run.table("responses")
        self._sample_parts = [(*_ranks(part.name), part.name) for part in self._sample.require_manifest().parts]
        self._engine = create_engine(annotator, run.task, num_tokens_before)

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Answer the records of ranks ``start`` to ``end`` and commit their part of ``responses``.

        Where the engine stops early, the answers it gave are committed as a shorter part before that is passed on.
        """
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
        return Outcome([self._commit(start, records, answers, busy_seconds)], busy_seconds, {"started_at": started_at})

    def _commit(self, start: int, records: pa.Table, answers: list[Answer], busy_seconds: float) -> Part:
        """Commit the answers to the first ``len(answers)`` of the records that begin at rank ``start``."""
        return self._responses.commit_part(
            _part_name(start, start + len(answers)),
            responses_table(records.slice(0, len(answers)), answers, self._categories, self._model),
            {
                "num_records": len(answers),
                "num_prompt_tokens": sum(a.num_prompt_tokens for a in answers),
                "num_response_tokens": sum(a.num_response_tokens for a in answers),
                "num_truncated": sum(a.num_truncated_tokens > 0 for a in answers),
                "num_errors": sum(a.finish_reason == "error" for a in answers),
                _BUSY: round(busy_seconds * 1000),
            },
        )

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
        earlier = self.responses.read_progress()
        self._wall_seconds_before = earlier.get("wall_seconds", 0.0)
        self._num_failures_before = earlier.get("num_failures", 0)
        self._last_saved = 0.0
        self._num_before, self._busy_seconds_before = self.num_done, self.busy_seconds
        self._startup_seconds: float | None = None

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
    def wall_seconds(self) -> float:
        return self._wall_seconds_before + time.monotonic() - self._started

    def add(self, outcome: Outcome) -> None:
        self.parts += outcome.parts
        startup_seconds = outcome.measures["started_at"] - self._started_at
        self._startup_seconds = min(startup_seconds, self._startup_seconds or startup_seconds)
        if time.monotonic() - self._last_saved >= _PROGRESS_EVERY_S or self.num_done >= self.num_total:
            self.save_progress()

    def save_progress(self, failure: str | None = None) -> None:
        self._last_saved = time.monotonic()
        self.responses.write_progress(
            {
                "failure": failure,
                "num_failures": self._num_failures_before + (failure is not None),
                "done": self.num_done,
                "total": self.num_total,
                "busy_seconds": self.busy_seconds,
                "wall_seconds": self.wall_seconds,
                "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )

    def measures(self) -> dict[str, float]:
        """Rates of this start, from the first record asked about: without Ray's start and the model's loading."""
        if self._startup_seconds is None:
            return {}
        working_seconds = time.monotonic() - self._started - self._startup_seconds
        return {
            "startup_seconds": self._startup_seconds,
            "records_per_second": (self.num_done - self._num_before) / working_seconds,
            "busy_replicas": (self.busy_seconds - self._busy_seconds_before) / working_seconds,
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
        upstream={"corpus": run.fingerprints["corpus"], "sample": run.fingerprints["sample"]},
        recipe=annotator.model_dump(mode="json"),
        model=annotator.model,
        model_identity=run.model_identities["annotator"],
        num_in=work.num_done,
        num_kept=work.num_done - num_errors,
        num_rejected={"engine_error": num_errors} if num_errors else {},
        counts=dict(counts),
        measures=work.measures(),
        wall_seconds=work.wall_seconds,
        busy_seconds=work.busy_seconds,
        accelerator_seconds=work.busy_seconds * annotator.gpus_per_replica,
        parts=sorted(work.parts, key=lambda part: _ranks(part.name)),
    )


def _cover(names: list[str], num_records: int, size: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Committed parts that hold the ranks 0 to ``num_records`` once each, and the ranges that none holds.

    Missing ranges end at multiples of ``size``. Drivers with different ``num_records`` may have committed
    parts that overlap, [768, 1000) beside [768, 1024): of two that begin together the longer one counts, and a
    part that begins within another does not.
    """
    committed = sorted((_ranks(name) for name in names if _PART_NAME.fullmatch(name)), key=lambda r: (r[0], -r[1]))
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
            used.append(_part_name(start, end))
            position = end
    return used, missing


def _part_name(start: int, end: int) -> str:
    return f"part-{start:09d}-{end:09d}.parquet"


def _ranks(name: str) -> tuple[int, int]:
    match = _PART_NAME.fullmatch(name)
    assert match, f"{name} is no part of a table in rank order"
    return int(match[1]), int(match[2])


# The sample


def draw_sample(run: Run) -> Manifest:
    """Write the ``sample`` table (record_id, text) in the order of the sampling hash; skipped when complete.

    Duplicates are left out. Where fewer records are eligible than ``annotator.num_records``, all are taken and
    the difference stands in the manifest's counts as ``num_short``. Driver memory: the sample's ids and hashes,
    one part of the corpus, and a window of texts (``_MAX_WINDOWS``); two passes over the corpus, the first of
    which reads ids alone, at about a million a second.
    """
    table = run.table("sample")
    if manifest := table.read_manifest():
        return manifest
    started = time.monotonic()
    annotator = run.recipe.annotator
    corpus, duplicates = _ids(run.table("corpus")), _ids(run.table("duplicates"))
    selection = select(corpus, duplicates, annotator.num_records, annotator.seed)
    num_selected = len(selection)
    if num_selected < annotator.num_records:
        logger.warning("annotator.num_records: %d asked for, %d are there", annotator.num_records, num_selected)
    parts = list(_write_sample(run, selection))
    rejected = {
        "duplicate": duplicates.num_records,
        "not_sampled": corpus.num_records - duplicates.num_records - num_selected,
    }
    return table.write_manifest(
        Manifest(
            stage="sample",
            fingerprint=run.fingerprints["sample"],
            upstream={"corpus": run.fingerprints["corpus"]},
            recipe={"num_records": annotator.num_records, "seed": annotator.seed},
            num_in=corpus.num_records,
            num_kept=num_selected,
            num_rejected=rejected,
            counts={"num_short": annotator.num_records - num_selected},
            wall_seconds=time.monotonic() - started,
            parts=parts,
        )
    )


def _ids(table: TableDirectory) -> IdSource:
    parts = table.require_manifest().parts

    def read() -> Iterator[pa.ChunkedArray]:
        for part in parts:
            yield table.read_part(part.name, [schema.RECORD_ID])[schema.RECORD_ID]

    return IdSource(read, sum(part.num_rows for part in parts))


def _write_sample(run: Run, selection: Selection) -> Iterator[Part]:
    """Commit the sample's parts: one pass over the texts into windows of ranks on disk, then window by window."""
    size, num = run.recipe.annotator.records_per_part, len(selection)
    per_window = max(-(-num // (_MAX_WINDOWS * size)), _MIN_PARTS_PER_WINDOW) * size
    with tempfile.TemporaryDirectory(prefix="llambert-sample-") as folder:
        _spill(run.table("corpus"), selection, per_window, Path(folder))
        for first in range(0, num, per_window):
            with pa.OSFile(str(_window_path(folder, first // per_window))) as file:
                window = pa.ipc.open_stream(file).read_all().sort_by("rank").select(schema.SAMPLE.names)
            assert window.num_rows == min(per_window, num - first), "a sampled record is missing from the corpus"
            for start in range(first, min(first + per_window, num), size):
                rows = window.slice(start - first, size).cast(schema.SAMPLE)
                yield run.table("sample").commit_part(_part_name(start, start + rows.num_rows), rows)


def _spill(corpus: TableDirectory, selection: Selection, per_window: int, folder: Path) -> None:
    """Write the selected records, as the corpus is read, to one Arrow file per window of ``per_window`` ranks."""
    spilled = pa.schema([pa.field("rank", pa.int64()), *schema.SAMPLE])
    num_windows = -(-len(selection) // per_window)
    writers = [pa.ipc.new_stream(_window_path(folder, window), spilled) for window in range(num_windows)]
    try:
        for table in corpus.iter_tables([schema.RECORD_ID, schema.TEXT]):
            ranks = pc.index_in(table[schema.RECORD_ID], value_set=selection.record_ids).cast(pa.int64())
            chosen = table.append_column("rank", ranks).filter(pc.is_valid(ranks)).select(spilled.names)
            windows = pc.divide(chosen["rank"], per_window)
            for window in pc.unique(windows).to_pylist():
                writers[window].write_table(chosen.filter(pc.equal(windows, window)).cast(spilled))
    finally:
        for writer in writers:
            writer.close()


def _window_path(folder: str | Path, window: int) -> str:
    return str(Path(folder) / f"window-{window:03d}.arrow")
