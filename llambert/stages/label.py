"""Label: corpus (record_id, text, kept columns) -> labels (record_id, label, score, ...), part by part.

One part of the corpus becomes one part of ``labels`` of the same name, committed whole; what was committed
before a restart is kept as it is. Records that cannot be labelled go to ``label_rejects`` with a reason.
``gold_label`` is read only if ``label.keep`` names it.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llambert import schema
from llambert.classifier import WINDOW_RECORDS, Classifier, Predictions
from llambert.dataset_card import dataset_card
from llambert.errors import InputError
from llambert.progress import Progress
from llambert.recipe import LabelRecipe
from llambert.reference import content_identity
from llambert.run import Run
from llambert.run_directory import Manifest, Part, TableDirectory, write_whole
from llambert.stages.parts import Outcome, Pool, run_units

_ROWS_PER_READ = 1024
_WINDOW_BYTES = 32 << 20
_REJECTED = "rejected."
_PART_READERS = 8
_PROGRESS_EVERY_S = 2.0


def label(run: Run) -> Manifest:
    """Label every record of the corpus; skipped, without starting Ray, when the table is complete.

    Raises ``InputError`` for a missing checkpoint or column, ``RuntimeError`` naming the parts that could
    not be labelled; then a new start does those alone.
    """
    labels = run.table("labels")
    if manifest := labels.read_manifest():
        return manifest
    recipe, checkpoint = run.recipe.label, run.table("checkpoint")
    checkpoint_manifest = checkpoint.require_manifest()
    corpus_parts = run.table("corpus").require_manifest().parts
    _check_columns(run)
    work = _Work(labels, corpus_parts)
    units = [{"name": part.name, "num_rows": part.num_rows} for part in work.to_do]
    arguments = (recipe, checkpoint.uri, run.table("corpus"), labels, run.table("label_rejects"))
    pool = Pool(recipe.min_actors, recipe.max_actors, recipe.cpus_per_actor, recipe.gpus_per_actor, recipe.max_attempts)
    try:
        with Progress("label", total=work.num_total, done=work.num_done) as bar:
            for outcome in run_units("label", LabelPart, arguments, units, pool):
                before = work.num_done
                work.add(outcome)
                bar.advance(work.num_done - before)
    except InputError:
        raise
    except Exception as error:
        work.write_progress(failure=" ".join([type(error).__name__, *str(error).split("\n")[-1:]]))
        missing = [part.name for part in work.to_do]
        raise RuntimeError(
            f"label: {len(missing)} of {len(corpus_parts)} parts are not labelled ({', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}); what is committed is kept, run the job again to go on"
        ) from error
    assert not work.to_do, f"label: parts without an outcome: {work.to_do[:5]}"
    manifest = _manifest(run, work, content_identity(checkpoint.uri))
    _complete_rejects(run, manifest)
    card = dataset_card(run, manifest, checkpoint_manifest)
    write_whole(labels.filesystem, labels.path("README.md"), card.encode())
    return labels.write_manifest(manifest)


class LabelPart:
    """The classifier, loaded once, and the tables it reads and writes; called with ``{"name", "num_rows"}``."""

    def __init__(
        self,
        recipe: LabelRecipe,
        checkpoint: str,
        corpus: TableDirectory,
        labels: TableDirectory,
        rejects: TableDirectory,
    ) -> None:
        self.recipe, self.corpus, self.labels, self.rejects = recipe, corpus, labels, rejects
        self.classifier = Classifier(
            checkpoint,
            dtype=recipe.dtype,
            max_batch_tokens=recipe.max_batch_tokens,
            device="cuda" if recipe.gpus_per_actor > 0 else "cpu",
            num_threads=max(1, round(recipe.cpus_per_actor)),
        )

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Label one part of the corpus and commit it.

        The part of ``label_rejects`` is committed first, even if empty, and decides: should another attempt
        at this part, killed or still running, have rejected other records, both keep to the committed one,
        so that no record is in both tables or in neither.
        """
        started = time.time()
        name = unit["name"]
        counts: Counter[str] = Counter()
        labelled: list[pa.Table] = []
        rejected = [schema.CORPUS_REJECTS.empty_table()]
        busy_seconds = 0.0
        for window, predictions in self._predict(name):
            busy_seconds += predictions.busy_seconds
            counts["num_tokens"] += predictions.num_tokens
            counts["num_padded_tokens"] += predictions.num_padded_tokens
            counts["num_truncated"] += predictions.num_truncated
            labelled.append(self._labels(window, predictions))
            rejected.append(_rejects(window, predictions))
        table = pa.concat_tables(labelled)
        reject_reasons = self._settle_rejects(name, pa.concat_tables(rejected))
        table = table.filter(pc.invert(pc.is_in(table[schema.RECORD_ID], reject_reasons[schema.RECORD_ID])))
        assert table.num_rows + reject_reasons.num_rows == unit["num_rows"], f"{name}: a record was lost"
        for column, prefix in ((table[schema.LABEL], "label."), (reject_reasons[schema.REJECT_REASON], _REJECTED)):
            for count in pc.value_counts(column).to_pylist():
                counts[f"{prefix}{count['values']}"] = count["counts"]
        part = self.labels.commit_part(name, table, dict(counts))
        held = (time.time() - started) * self.recipe.gpus_per_actor
        return Outcome([part], busy_seconds, {"started_at": started, "accelerator_seconds": held})

    @property
    def _columns(self) -> list[str]:
        return list(dict.fromkeys([schema.RECORD_ID, schema.TEXT, *self.recipe.keep]))

    def _predict(self, name: str) -> Iterator[tuple[pa.Table, Predictions]]:
        """Windows of the corpus part, each with what the classifier says about it."""
        waiting: deque[pa.Table] = deque()

        def texts() -> Iterator[Sequence[str]]:
            for window in read_windows(self.corpus, name, self._columns):
                waiting.append(window)
                # What the tokenizer will not read anyway need not become a Python string.
                yield pc.utf8_slice_codeunits(window[schema.TEXT], 0, self.classifier.max_text_chars + 1).to_pylist()

        for predictions in self.classifier.stream(texts()):
            yield waiting.popleft(), predictions

    def _labels(self, window: pa.Table, predictions: Predictions) -> pa.Table:
        kept = np.ones(window.num_rows, dtype=bool)
        kept[list(predictions.failures)] = False
        columns = {
            schema.RECORD_ID: window[schema.RECORD_ID],
            schema.LABEL: pa.array(predictions.labels, pa.string()),
            schema.SCORE: pa.array(predictions.scores, pa.float32()),
        }
        if self.recipe.probabilities:
            columns[schema.LABEL_PROBABILITIES] = _probabilities(self.classifier.categories, predictions.probabilities)
        columns |= {name: window[name] for name in self.recipe.keep}
        fields = [
            pa.field(name, column.type, nullable=name not in schema.LABELS.names) for name, column in columns.items()
        ]
        return pa.table(columns).filter(pa.array(kept)).cast(pa.schema(fields))

    def _settle_rejects(self, name: str, rejected: pa.Table) -> pa.Table:
        """Commit the rejects, or take those that another attempt committed; ids and reasons."""
        self.rejects.commit_part(name, rejected.combine_chunks())
        settled = self.rejects.read_part(name, [schema.RECORD_ID, schema.REJECT_REASON])
        lost = set(rejected[schema.RECORD_ID].to_pylist()) - set(settled[schema.RECORD_ID].to_pylist())
        if lost:
            raise RuntimeError(
                f"{name}: {len(lost)} records failed here that another attempt labelled, for example {min(lost)}"
            )
        return settled


def read_windows(corpus: TableDirectory, name: str, columns: list[str]) -> Iterator[pa.Table]:
    """A corpus part in tables of at most ``WINDOW_RECORDS`` rows and, single rows aside, 32 MiB of text.

    Read a thousand rows at a time: memory does not depend on the size of the part. An empty part is one empty
    table.
    """
    with corpus.filesystem.open(corpus.path(name), "rb") as stream, pq.ParquetFile(stream, pre_buffer=False) as parquet:
        missing = [column for column in columns if column not in parquet.schema_arrow.names]
        if missing:
            raise InputError(f"label.keep: {corpus.uri}/{name} has no column {', '.join(missing)}")
        waiting: list[pa.Table] = []
        num_rows = num_bytes = 0
        for batch in parquet.iter_batches(batch_size=_ROWS_PER_READ, columns=columns):
            table = pa.Table.from_batches([batch]).select(columns)
            size = pc.sum(pc.binary_length(table[schema.TEXT])).as_py() or 0
            if waiting and (num_rows + table.num_rows > WINDOW_RECORDS or num_bytes + size > _WINDOW_BYTES):
                yield pa.concat_tables(waiting)
                waiting, num_rows, num_bytes = [], 0, 0
            waiting.append(table)
            num_rows += table.num_rows
            num_bytes += size
        yield pa.concat_tables(waiting) if waiting else parquet.schema_arrow.empty_table().select(columns)


def _check_columns(run: Run) -> None:
    keep, available = run.recipe.label.keep, [*schema.CORPUS.names, *run.recipe.corpus.columns.keep]
    taken = {schema.RECORD_ID, schema.LABEL, schema.SCORE, schema.LABEL_PROBABILITIES}
    for name in keep:
        if name in taken:
            raise InputError(f"label.keep: {name!r} is a column of the labels table itself; leave it out")
        if name not in available:
            raise InputError(f"label.keep: the corpus has no column {name!r}; it has {', '.join(available)}")


class _Work:
    """Which parts are labelled, and the time that took, over all starts of the stage."""

    def __init__(self, labels: TableDirectory, corpus_parts: list[Part]) -> None:
        self.labels, self._corpus_parts = labels, corpus_parts
        self._done = _committed_parts(labels, {part.name for part in corpus_parts})
        self._earlier = labels.read_progress()
        self._started, self._started_at = time.monotonic(), time.time()
        self._busy_seconds = self._accelerator_seconds = 0.0
        self._last_written = -_PROGRESS_EVERY_S
        self.num_total = sum(part.num_rows for part in corpus_parts)
        self.num_done_before = self.num_done
        self.startup_seconds: float | None = None
        self.write_progress()

    @property
    def to_do(self) -> list[Part]:
        """The parts of the corpus whose labels are not committed."""
        return [part for part in self._corpus_parts if part.name not in self._done]

    @property
    def parts(self) -> list[Part]:
        """The committed parts of ``labels``, in the order of the corpus."""
        return [self._done[part.name] for part in self._corpus_parts if part.name in self._done]

    @property
    def num_done(self) -> int:
        """Records labelled or rejected."""
        return sum(_num_in(part) for part in self._done.values())

    @property
    def seconds(self) -> dict[str, float]:
        """``wall_seconds``, ``busy_seconds`` and ``accelerator_seconds`` of all starts together."""
        now = {
            "wall_seconds": time.monotonic() - self._started,
            "busy_seconds": self._busy_seconds,
            "accelerator_seconds": self._accelerator_seconds,
        }
        return {name: self._earlier.get(name, 0.0) + value for name, value in now.items()}

    @property
    def measures(self) -> dict[str, float]:
        """Of this start: how long the first classifier took to be at work, and the rate from then on."""
        if self.startup_seconds is None:
            return {}
        working_seconds = time.monotonic() - self._started - self.startup_seconds
        rate = (self.num_done - self.num_done_before) / working_seconds
        return {"startup_seconds": self.startup_seconds, "records_per_second": rate}

    def add(self, outcome: Outcome) -> None:
        """A unit came back."""
        self._done |= {part.name: part for part in outcome.parts}
        self._busy_seconds += outcome.busy_seconds
        self._accelerator_seconds += outcome.measures["accelerator_seconds"]
        started = outcome.measures["started_at"] - self._started_at
        self.startup_seconds = started if self.startup_seconds is None else min(started, self.startup_seconds)
        if time.monotonic() - self._last_written >= _PROGRESS_EVERY_S or not self.to_do:
            self.write_progress()

    def write_progress(self, failure: str | None = None) -> None:
        """What ``llambert status`` reads. ``num_failures`` counts the starts that ended in an error."""
        self._last_written = time.monotonic()
        self.labels.write_progress(
            {
                "done": self.num_done,
                "total": self.num_total,
                "num_failures": self._earlier.get("num_failures", 0) + (failure is not None),
                "failure": failure,
                **self.seconds,
                "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )


def _committed_parts(table: TableDirectory, names: set[str]) -> dict[str, Part]:
    committed = [name for name in table.part_names() if name in names]
    with ThreadPoolExecutor(_PART_READERS) as readers:
        return dict(zip(committed, readers.map(table.committed_part, committed), strict=True))


def _num_in(part: Part) -> int:
    return part.num_rows + sum(num for key, num in part.counts.items() if key.startswith(_REJECTED))


def _manifest(run: Run, work: _Work, model_identity: str) -> Manifest:
    totals: Counter[str] = Counter()
    for part in work.parts:
        totals.update(part.counts)
    padded, seconds = totals["num_padded_tokens"], work.seconds
    return Manifest(
        stage="label",
        fingerprint=run.fingerprints["labels"],
        upstream={"corpus": run.fingerprints["corpus"], "checkpoint": run.fingerprints["checkpoint"]},
        recipe=run.recipe.label.model_dump(mode="json"),
        model=run.recipe.classifier.model,
        model_identity=model_identity,
        num_in=work.num_done,
        num_kept=sum(part.num_rows for part in work.parts),
        num_rejected={k.removeprefix(_REJECTED): n for k, n in sorted(totals.items()) if k.startswith(_REJECTED)},
        counts={key: num for key, num in sorted(totals.items()) if not key.startswith(_REJECTED)},
        measures={"padding_waste": 1 - totals["num_tokens"] / padded if padded else 0.0, **work.measures},
        wall_seconds=seconds["wall_seconds"],
        busy_seconds=seconds["busy_seconds"],
        accelerator_seconds=seconds["accelerator_seconds"],
        parts=work.parts,
    )


def _complete_rejects(run: Run, labels: Manifest) -> None:
    """The manifest of ``label_rejects``: one part per part of the corpus, most of them empty."""
    rejects = run.table("label_rejects")
    parts = _committed_parts(rejects, {part.name for part in labels.parts})
    num_rejected = sum(part.num_rows for part in parts.values())
    assert num_rejected == sum(labels.num_rejected.values())
    rejects.write_manifest(
        Manifest(
            stage="label",
            fingerprint=labels.fingerprint,
            upstream=labels.upstream,
            num_in=num_rejected,
            num_kept=num_rejected,
            wall_seconds=0.0,
            parts=[parts[name] for name in sorted(parts)],
        )
    )


def _rejects(window: pa.Table, predictions: Predictions) -> pa.Table:
    rows = sorted(predictions.failures)
    failed = window.take(pa.array(rows, pa.int64()))
    return pa.table(
        [
            failed[schema.RECORD_ID],
            failed[schema.TEXT],
            pa.array([predictions.failures[row] for row in rows], pa.string()),
        ],
        schema=schema.CORPUS_REJECTS,
    )


def _probabilities(categories: list[str], probabilities: np.ndarray) -> pa.Array:
    """``schema.PROBABILITIES`` from an array (records, categories), without a Python object per value."""
    num, width = len(probabilities), len(categories)
    names = pa.array(categories * num, pa.string())
    pairs = pa.StructArray.from_arrays(
        [names, pa.array(probabilities.reshape(-1).astype(np.float64))], fields=list(schema.PROBABILITIES.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(num + 1) * width, pa.int32()), pairs, type=schema.PROBABILITIES)
