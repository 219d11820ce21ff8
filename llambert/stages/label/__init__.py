"""Label: corpus (record_id, text, kept columns) -> labels (record_id, label, score, ...), part by part.

One part of the corpus becomes one part of ``labels`` of the same name, committed whole; what was committed
before a restart is kept as it is, and so are, while the checkpoint stays, the labels of what has not changed of a
corpus that has grown. Records that cannot be labelled go to ``label_rejects`` with a reason.
``gold_label`` is read only if ``label.keep`` names it.
"""

import time
from typing import Any

from llambert import schema
from llambert.classifier.labelling import PartLabeller, read_windows, work_counts
from llambert.errors import InputError
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.devices import placed, with_label_dtype
from llambert.execution.ray_executor import RAY
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.execution.stage_progress import PartByPartProgress
from llambert.run import Run
from llambert.stages.by_label import check, publish_by_label
from llambert.stages.label.dataset_card import dataset_card
from llambert.storage.manifest import Growth, Manifest, Part, total
from llambert.storage.set_aside import set_aside_manifest
from llambert.storage.table_files import require_whole


def label(run: Run, executor: Executor = RAY) -> Manifest:
    """Label every record of the corpus; skipped, without starting Ray, when the table is complete.

    Raises ``InputError`` for a missing or damaged checkpoint, a missing column, or a category that ``by_label`` has no
    folder for, ``RuntimeError`` naming the parts that could not be labelled; then a new start does those alone.
    """
    check(run)
    run = with_label_dtype(run, executor)
    manifest = run.table("labels").read_manifest()
    if manifest is not None:
        run.remove_replaced("labels")
    else:
        manifest = _label(run, executor)
    if run.recipe.label.by_label and run.recipe.guarantee is None:  # escalate publishes the final labels
        publish_by_label(run, "labels_by_label", executor)
    return manifest


def _label(run: Run, executor: Executor) -> Manifest:
    checkpoint = require_whole(run.table("checkpoint"))
    corpus_parts = run.table("corpus").require_manifest().parts
    _check_columns(run)
    last = run.table("labels").last_manifest() or set_aside_manifest(run.table("labels"))
    progress = PartByPartProgress("label", run.table("labels"), corpus_parts)
    if progress.remaining:
        run = placed(run, executor)
    recipe = run.recipe.label
    actors = (recipe.min_actors, recipe.max_actors, recipe.cpus_per_actor, recipe.gpus_per_actor or 0.0)
    pool = Pool(*actors, recipe.max_attempts, recipe.node_resource)
    parts = progress.run_parts(executor, LabelPart, (run,), pool)
    counts = total(parts)
    padded = counts["num_padded_tokens"]
    return run.complete(
        "labels",
        parts,
        num_in=sum(part.num_rows for part in corpus_parts),
        counts=counts,
        growth=_growth(last, parts, run.generation, checkpoint.content) if last else None,
        measures={"padding_waste": 1 - counts["num_tokens"] / padded if padded else 0.0, **progress.measures()},
        card=lambda labels: dataset_card(run, labels, checkpoint),
        **progress.seconds,
    )


def _growth(last: Manifest, parts: list[Part], generation: str, checkpoint: str) -> Growth | None:
    """Labels of new parts, of parts that are gone, and those that are as before, since the manifest ``last``.

    What that one says if it is of this generation, and so was set aside; None if another checkpoint had made its
    labels, whose content ``checkpoint`` is now: all are new.
    """
    if last.generation == generation:
        return last.growth if last.model_identity == checkpoint else None
    names, before = {part.name for part in parts}, {part.name for part in last.parts}
    return Growth(
        since=last.generation,
        num_records_new=sum(part.num_rows for part in parts if part.name not in before),
        num_records_removed=sum(part.num_rows for part in last.parts if part.name not in names),
        num_records_same=sum(part.num_rows for part in parts if part.name in before),
    )


class LabelPart:
    """The classifier, loaded once, and the corpus it reads; called with ``{"name", "num_rows"}``."""

    def __init__(self, run: Run) -> None:
        recipe = run.recipe.label
        checkpoint, labels, rejects = map(run.table, ("checkpoint", "labels", "label_rejects"))
        self._metrics = ReplicaMetrics(run.recipe.name, "label", recipe.gpus_per_actor or 0.0)
        self._labeller = PartLabeller(recipe, checkpoint.uri, labels, rejects)
        self._corpus, self._num_gpus = run.table("corpus"), recipe.gpus_per_actor or 0.0
        self._columns = list(dict.fromkeys([schema.RECORD_ID, schema.TEXT, *recipe.keep]))

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Label one part of the corpus and commit it under its own name."""
        started_at = time.time()
        windows = self._metrics.reading(read_windows(self._corpus, unit["name"], self._columns))
        part, busy_seconds = self._labeller.commit(unit["name"], windows)
        assert part.num_in == unit["num_rows"], f"{unit['name']}: the corpus part has lost rows"
        self._metrics.add(work_counts(part), busy_seconds, part.name)
        ended_at = time.time()
        held = (ended_at - started_at) * self._num_gpus
        measures = {"started_at": started_at, "ended_at": ended_at, "accelerator_seconds": held}
        return Outcome([part], busy_seconds, measures, self._metrics.replica)


def _check_columns(run: Run) -> None:
    keep, available = run.recipe.label.keep, [*schema.CORPUS.names, *run.recipe.corpus.columns.keep]
    taken = {schema.RECORD_ID, schema.LABEL, schema.SCORE, schema.LABEL_PROBABILITIES}
    for name in keep:
        if name in taken:
            raise InputError(f"label.keep: {name!r} is a column of the labels table itself; leave it out")
        if name not in available:
            raise InputError(f"label.keep: the corpus has no column {name!r}; it has {', '.join(available)}")
