"""Label: corpus (record_id, text, kept columns) -> labels (record_id, label, score, ...), part by part.

One part of the corpus becomes one part of ``labels`` of the same name, committed whole; what was committed
before a restart is kept as it is. Records that cannot be labelled go to ``label_rejects`` with a reason.
``gold_label`` is read only if ``label.keep`` names it.
"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llambert import schema
from llambert.classifier.labelling import REJECTED, PartLabeller, num_in, read_windows, work_counts
from llambert.errors import InputError, last_line
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.progress import Progress
from llambert.execution.progress_file import ProgressFile
from llambert.execution.ray_executor import RAY
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.execution.spans import Span
from llambert.run import Run
from llambert.stages.label.by_label import check, publish_by_label
from llambert.stages.label.dataset_card import dataset_card
from llambert.storage.reference import content_identity
from llambert.storage.run_directory import Manifest, Part, TableDirectory, write_whole

_PART_READERS = 8


def label(run: Run, executor: Executor = RAY) -> Manifest:
    """Label every record of the corpus; skipped, without starting Ray, when the table is complete.

    Raises ``InputError`` for a missing checkpoint or column, or a category that ``by_label`` has no folder for,
    ``RuntimeError`` naming the parts that could not be labelled; then a new start does those alone.
    """
    check(run)
    manifest = run.table("labels").read_manifest() or _label(run, executor)
    if run.recipe.label.by_label:
        publish_by_label(run, executor)
    return manifest


def _label(run: Run, executor: Executor) -> Manifest:
    labels, recipe, checkpoint = run.table("labels"), run.recipe.label, run.table("checkpoint")
    checkpoint_manifest = checkpoint.require_manifest()
    corpus_parts = run.table("corpus").require_manifest().parts
    _check_columns(run)
    work = _Work(labels, corpus_parts)
    units = [{"name": part.name, "num_rows": part.num_rows} for part in work.to_do]
    pool = Pool(
        recipe.min_actors,
        recipe.max_actors,
        recipe.cpus_per_actor,
        recipe.gpus_per_actor,
        recipe.max_attempts,
        recipe.node_resource,
    )
    try:
        with Progress("label", total=work.num_total, done=work.num_done) as bar:
            for outcome in executor.run("label", LabelPart, (run,), units, pool):
                before = work.num_done
                work.add(outcome)
                bar.advance(work.num_done - before)
    except Exception as error:
        work.write_progress(failure=last_line(error))
        if isinstance(error, InputError):
            raise
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
    """The classifier, loaded once, and the corpus it reads; called with ``{"name", "num_rows"}``."""

    def __init__(self, run: Run) -> None:
        recipe = run.recipe.label
        self._labeller = PartLabeller(
            recipe, run.table("checkpoint").uri, run.table("labels"), run.table("label_rejects")
        )
        self._corpus, self._num_gpus = run.table("corpus"), recipe.gpus_per_actor
        self._columns = list(dict.fromkeys([schema.RECORD_ID, schema.TEXT, *recipe.keep]))
        self._metrics = ReplicaMetrics(run.recipe.name, "label", recipe.gpus_per_actor)

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Label one part of the corpus and commit it under its own name."""
        started_at = time.time()
        done = self._labeller.commit(unit["name"], read_windows(self._corpus, unit["name"], self._columns))
        assert num_in(done.part) == unit["num_rows"], f"{unit['name']}: the corpus part has lost rows"
        self._metrics.add(work_counts(done.part), done.busy_seconds, done.part.name)
        ended_at = time.time()
        held = (ended_at - started_at) * self._num_gpus
        measures = {"started_at": started_at, "ended_at": ended_at, "accelerator_seconds": held}
        return Outcome([done.part], done.busy_seconds, measures, self._metrics.replica)


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
        self._corpus_parts = corpus_parts
        self._done = _committed_parts(labels, {part.name for part in corpus_parts})
        self._file = ProgressFile(labels)
        self._started_at = time.time()
        self._accelerator_seconds = 0.0
        self._replicas: dict[str, Span] = {}
        self.num_total = sum(part.num_rows for part in corpus_parts)
        self.num_done = sum(num_in(part) for part in self._done.values())
        """Records labelled or rejected."""
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
    def seconds(self) -> dict[str, float]:
        """``wall_seconds``, ``busy_seconds`` and ``accelerator_seconds`` of all starts together."""
        busy_seconds = sum(span.busy_seconds for span in self._replicas.values())
        return self._file.seconds(busy_seconds=busy_seconds, accelerator_seconds=self._accelerator_seconds)

    @property
    def measures(self) -> dict[str, float]:
        """Of this start: how long the first classifier took to be at work, and rates from then on.

        ``records_per_second`` is from the first record to the last, over all replicas; ``replica_rate.<n>`` that of
        the n-th one after its first part; ``busy_share.<n>``, of its time, the model's.
        """
        if not self._replicas:
            return {}
        spans = list(self._replicas.values())
        first, last = min(span.started_at for span in spans), max(span.ended_at for span in spans)
        return {
            "startup_seconds": first - self._started_at,
            "records_per_second": sum(span.num_rows for span in spans) / max(last - first, 1e-9),
            **{f"replica_rate.{n}": span.rows_per_second for n, span in enumerate(spans)},
            **{f"busy_share.{n}": span.busy_share for n, span in enumerate(spans)},
        }

    def add(self, outcome: Outcome) -> None:
        """A unit came back."""
        for part in outcome.parts:
            if part.name not in self._done:
                self._done[part.name] = part
                self.num_done += num_in(part)
        self._accelerator_seconds += outcome.measures["accelerator_seconds"]
        self._replicas.setdefault(outcome.replica, Span()).add(outcome)
        self._file.write_now_and_then(self.num_done, self.num_total, self.seconds)

    def write_progress(self, failure: str | None = None) -> None:
        """What ``llambert status`` reads."""
        self._file.write(self.num_done, self.num_total, self.seconds, failure)


def _committed_parts(table: TableDirectory, names: set[str]) -> dict[str, Part]:
    committed = [name for name in table.part_names() if name in names]
    with ThreadPoolExecutor(_PART_READERS) as readers:
        return dict(zip(committed, readers.map(table.committed_part, committed), strict=True))


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
        num_rejected={k.removeprefix(REJECTED): n for k, n in sorted(totals.items()) if k.startswith(REJECTED)},
        counts={key: num for key, num in sorted(totals.items()) if not key.startswith(REJECTED)},
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
