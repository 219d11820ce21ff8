"""Annotate: ``sample`` -> what the LLM made of each record -> ``responses``.

What is asked is looked up in the answer store first (``annotation/answer_store.py``), and kept there: ``responses``
says of each sampled record which answer is its. So the same question is paid for once, whatever becomes of sample,
corpus and run.
"""

import random
import time
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.answer_store import AnswerReader, AnswerStore
from llambert.annotation.calibration import CONTENT_FREE_TEXTS
from llambert.annotation.part_names import rank_range
from llambert.annotation.responses import is_transient
from llambert.annotation.splits import warn_of_unused_annotations
from llambert.engines import Answer, Engine, StoppedEarly, check, create_engine
from llambert.engines.answers import answers_table
from llambert.errors import InputError
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.ray_executor import RAY
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.execution.stage_progress import StageProgress
from llambert.run import Run
from llambert.stages.annotate.completion import NUM_PASSING, count_answers, have_failed, write_responses
from llambert.stages.annotate.sampled_questions import SampledQuestions, questions_of
from llambert.stages.shots import prompted_task
from llambert.storage.manifest import Manifest, Part
from llambert.storage.reference import provide_model
from llambert.training.encoder import require_encoder

_NUM_DONE = "num_done"


def annotate(run: Run, executor: Executor = RAY) -> Manifest:
    """Ask the LLM about the records of ``sample``; only what no run of the same answer store has asked before.

    Returns the manifest of ``responses`` (columns ``schema.RESPONSES``). A record the engine failed on is counted as
    rejected. Records that failed for a reason that may pass are asked about again by each start; a complete table
    stays so where they cannot be. Where every answer is there, no engine is made and Ray is not started. For contextual
    calibration the texts without content are asked about too, into the table ``content_free``.
    """
    annotator = run.recipe.annotator
    check(annotator, run.task)
    responses, content_free = run.table("responses"), run.table("content_free")
    wants_content_free = run.recipe.parse.prior_correction == "contextual" and not content_free.read_manifest()
    complete = responses.read_manifest()
    if not wants_content_free and _is_final(complete):
        return complete
    require_encoder(run)  # before money is spent on answers that it could not learn from
    sample = run.table("sample").require_manifest()
    warn_of_unused_annotations(run.recipe.classifier, sample)
    questions, store = SampledQuestions.of(run, wants_content_free), AnswerStore(run.table("answers"))
    found = store.find(questions.keys)
    units = questions.units(found, annotator.records_per_part)
    # Each driver in an order of its own: of two that ask the same, none waits for the other or runs beside it.
    random.Random().shuffle(units)
    num_open = found.null_count
    failures: dict[str, tuple[str, str]] = {}

    def num_done(outcome: Outcome) -> int:
        failures.update(outcome.failures)
        return int(outcome.measures[_NUM_DONE])

    progress = StageProgress("annotate", responses, len(found), "records", num_done, num_done=len(found) - num_open)
    if complete and num_open:
        print(f"annotate: records that failed before ({num_open:,}) are asked again", flush=True)
    elif units and num_open < len(found):
        print(f"annotate: {len(found) - num_open:,} of {len(found):,} answers are stored already", flush=True)
    try:
        if units:
            store.describe(run.asking)
            replicas = (annotator.min_replicas, annotator.max_replicas)
            replica = (annotator.cpus_per_replica, annotator.gpus_per_replica)
            pool = Pool(*replicas, *replica, annotator.max_attempts, annotator.node_resource)
            arguments = (run, _num_tokens_stored(run, questions.keys, found), _provide_model(run, executor))
            progress.run(executor, AnnotatePart, arguments, units, pool)
    except InputError as error:
        open_keys = questions.keys.filter(found.is_null())
        if complete is None or wants_content_free or not have_failed(run, complete, open_keys):
            raise
        print(f"annotate: not all records that failed before ({num_open:,}) could be asked again: {error}", flush=True)
    store.save_index()
    return write_responses(run, questions, store.find(questions.keys), failures, progress)


def _provide_model(run: Run, executor: Executor) -> str:
    """What every replica opens as the annotator's model, fetched once before there is one."""
    annotator = run.recipe.annotator
    if annotator.engine == "openai":
        return annotator.model
    storage = f"{run.directory.uri}/models"
    return provide_model(annotator.model, annotator.revision, storage, spans_machines=executor.spans_machines)


def _is_final(manifest: Manifest | None) -> TypeGuard[Manifest]:
    """Whether a table is complete, and nothing in it to be asked again."""
    return manifest is not None and not manifest.counts.get(NUM_PASSING)


def _num_tokens_stored(run: Run, keys: pa.Array, answered_in: pa.Array) -> tuple[int, int]:
    """Prompt and response tokens of the answers that are stored."""
    columns = [schema.NUM_PROMPT_TOKENS, schema.NUM_RESPONSE_TOKENS]
    answers = AnswerReader(run.table("answers"), columns).read(keys, answered_in)
    prompt, response = (int(pc.sum(answers[name]).as_py() or 0) for name in columns)
    return prompt, response


@dataclass
class _Asked:
    """One call of the engine: its answers and seconds, and why it stopped early, if it did."""

    started_at: float
    answers: list[Answer] = field(default_factory=list)
    busy_seconds: float = 0.0
    stopped: StoppedEarly | None = None


class AnnotatePart:
    """One replica: loads the recipe's engine once, then answers some questions at a time.

    ``num_tokens_before``: prompt and response tokens of the answers stored before this start. ``model``: where the
    recipe's is opened (``provide_model``), by default by its own name.
    """

    def __init__(self, run: Run, num_tokens_before: tuple[int, int] = (0, 0), model: str | None = None) -> None:
        self._model = run.recipe.annotator.model
        annotator = run.recipe.annotator.model_copy(update={"model": model or self._model})
        self._categories, self._asked_for = run.task.category_names, run.table("responses").fingerprint
        self._sample, self._store = run.table("sample"), AnswerStore(run.table("answers"))
        self._sample_parts = [(*rank_range(part.name), part.name) for part in self._sample.require_manifest().parts]
        self._questions = questions_of(run)
        self._metrics = ReplicaMetrics(run.recipe.name, "annotate", annotator.gpus_per_replica)
        self._engine: Engine = create_engine(annotator, prompted_task(run), num_tokens_before)

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Ask about the records of ``unit["ranks"]``, ranges of ranks, and commit their answers to the store.

        What another run has asked meanwhile is left out. Ranks beyond the sample are the texts without content. Where
        the engine stops early, the answers it gave are committed before that is passed on.
        """
        texts = self._texts(unit["ranks"])
        keys = self._questions.keys(texts)
        is_open = self._store.find(keys).is_null().to_pylist()
        keys = keys.filter(pa.array(is_open))
        asked = self._ask([text for text, wanted in zip(texts, is_open, strict=True) if wanted])
        parts, failures = self._commit(keys, asked)
        if asked.stopped is not None:
            raise asked.stopped
        times = {"started_at": asked.started_at, "ended_at": time.time()}
        measures = {_NUM_DONE: float(len(texts)), **times}
        return Outcome(
            parts, asked.busy_seconds, measures, self._metrics.replica, list(self._engine.notes), failures=failures
        )

    def _ask(self, texts: list[str]) -> _Asked:
        asked = _Asked(time.time())
        began = time.perf_counter()
        try:
            asked.answers = self._engine.annotate(texts) if texts else []
        except StoppedEarly as error:
            asked.answers, asked.stopped = error.answers, error
        asked.busy_seconds = time.perf_counter() - began
        return asked

    def _commit(self, keys: pa.Array, asked: _Asked) -> tuple[list[Part], dict[str, tuple[str, str]]]:
        """Commit the answers to the first of ``keys``; of those that failed for a reason that may pass, the errors."""
        answers = asked.answers
        rows = answers_table(keys.slice(0, len(answers)), answers, self._categories, self._model, asked.busy_seconds)
        may_pass = is_transient(rows)
        failures = {
            row[schema.KEY].hex(): (row[schema.ERROR], row[schema.ERROR_KIND])
            for row in rows.filter(may_pass).select([schema.KEY, schema.ERROR, schema.ERROR_KIND]).to_pylist()
        }
        final = rows.filter(pc.invert(may_pass))
        counts = count_answers(rows, self._categories)
        if not final.num_rows:
            self._metrics.add(counts, asked.busy_seconds, "")
            return [], failures
        part = self._store.commit(self._asked_for, final, counts=count_answers(final, self._categories))
        self._metrics.add(counts, asked.busy_seconds, part.name)
        return [part], failures

    def _texts(self, ranges: list[list[int]]) -> list[str]:
        """The texts of ranks, whatever parts of the sample they lie in."""
        found: list[str] = []
        read: dict[str, pa.ChunkedArray] = {}  # scattered ranks share parts
        end_of_sample = self._sample_parts[-1][1] if self._sample_parts else 0
        for start, end in ranges:
            for first, last, name in self._sample_parts:
                if first < end and start < last:
                    if name not in read:
                        read[name] = self._sample.read_part(name, [schema.TEXT])[schema.TEXT]
                    skipped = max(start - first, 0)
                    found += read[name].slice(skipped, min(end, last) - first - skipped).to_pylist()
            found += CONTENT_FREE_TEXTS[max(start - end_of_sample, 0) : max(end - end_of_sample, 0)]
        assert len(found) == sum(end - start for start, end in ranges), f"the sample lacks some of ranks {ranges}"
        return found
