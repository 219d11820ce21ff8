"""The worker that asks the annotator about texts of one table and keeps its answers in the store."""

import time
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.answer_store import AnswerStore
from llambert.annotation.calibration import CONTENT_FREE_TEXTS
from llambert.annotation.part_names import rank_range
from llambert.annotation.responses import is_transient
from llambert.engines import Answer, Engine, StoppedEarly, create_engine
from llambert.engines.answers import answers_table
from llambert.execution import Outcome
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.run import Run
from llambert.stages.asking.completion import count_answers
from llambert.stages.asking.ordered_questions import questions_of
from llambert.stages.shots import prompted_task
from llambert.storage.manifest import Part

NUM_DONE = "num_done"


@dataclass
class _Asked:
    """One call of the engine: its answers and seconds, and why it stopped early, if it did."""

    started_at: float
    answers: list[Answer] = field(default_factory=list)
    busy_seconds: float = 0.0
    stopped: StoppedEarly | None = None


class AskPart:
    """One replica: loads the recipe's engine once, then answers some questions at a time.

    ``name``: the table of responses that is asked for. ``num_tokens_before``: prompt and response tokens of the answers
    stored before this start. ``model``: where the recipe's is opened (``provide_model``), by default by its own name.
    """

    def __init__(
        self, run: Run, name: str = "responses", num_tokens_before: tuple[int, int] = (0, 0), model: str | None = None
    ) -> None:
        self._model = run.recipe.annotator.model
        annotator = run.recipe.annotator.model_copy(update={"model": model or self._model})
        self._categories, self._asked_for = run.task.category_names, run.table(name).fingerprint
        spec = run.tables[name]
        self._asks_about, self._store = run.table(spec.texts), AnswerStore(run.table("answers"))
        parts = self._asks_about.require_manifest().parts
        self._parts = [(*rank_range(part.name), part.name) for part in parts]
        self._questions = questions_of(run)
        self._metrics = ReplicaMetrics(run.recipe.name, spec.stage, annotator.gpus_per_replica)
        self._engine: Engine = create_engine(annotator, prompted_task(run), num_tokens_before)

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Ask about the records of ``unit["ranks"]``, ranges of ranks, and commit their answers to the store.

        What another run has asked meanwhile is left out. Ranks beyond the table's are the texts without content.
        Where the engine stops early, the answers it gave are committed before that is passed on.
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
        measures = {NUM_DONE: float(len(texts)), **times}
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
        """The texts of ranks, whatever parts of the table they lie in."""
        found: list[str] = []
        read: dict[str, pa.ChunkedArray] = {}  # scattered ranks share parts
        end_of_table = self._parts[-1][1] if self._parts else 0
        for start, end in ranges:
            for first, last, name in self._parts:
                if first < end and start < last:
                    if name not in read:
                        read[name] = self._asks_about.read_part(name, [schema.TEXT])[schema.TEXT]
                    skipped = max(start - first, 0)
                    found += read[name].slice(skipped, min(end, last) - first - skipped).to_pylist()
            found += CONTENT_FREE_TEXTS[max(start - end_of_table, 0) : max(end - end_of_table, 0)]
        assert len(found) == sum(end - start for start, end in ranges), f"the table lacks some of ranks {ranges}"
        return found
