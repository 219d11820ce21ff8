"""Label: corpus (record_id, text, kept columns) -> labels (record_id, label, score, ...), part by part.

One part of the corpus becomes one part of ``labels`` of the same name, committed whole; what was committed
before a restart is kept as it is. Records that cannot be labelled go to ``label_rejects`` with a reason.
``gold_label`` is read only if ``label.keep`` names it.
"""

import time
from typing import Any

from llambert import schema
from llambert.classifier.labelling import PartLabeller, read_windows, work_counts
from llambert.errors import InputError
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.ray_executor import RAY
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.execution.stage_progress import PartByPartProgress
from llambert.run import Run
from llambert.stages.label.by_label import check, publish_by_label
from llambert.stages.label.dataset_card import dataset_card
from llambert.storage.manifest import Manifest, total


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
    recipe, checkpoint = run.recipe.label, run.table("checkpoint").require_manifest()
    corpus_parts = run.table("corpus").require_manifest().parts
    _check_columns(run)
    progress = PartByPartProgress("label", run.table("labels"), corpus_parts)
    actors = (recipe.min_actors, recipe.max_actors, recipe.cpus_per_actor, recipe.gpus_per_actor)
    pool = Pool(*actors, recipe.max_attempts, recipe.node_resource)
    parts = progress.run_parts(executor, LabelPart, (run,), pool)
    counts = total(parts)
    padded = counts["num_padded_tokens"]
    return run.complete(
        "labels",
        parts,
        num_in=sum(part.num_rows for part in corpus_parts),
        counts=counts,
        measures={"padding_waste": 1 - counts["num_tokens"] / padded if padded else 0.0, **progress.measures()},
        card=lambda labels: dataset_card(run, labels, checkpoint),
        **progress.seconds,
    )


class LabelPart:
    """The classifier, loaded once, and the corpus it reads; called with ``{"name", "num_rows"}``."""

    def __init__(self, run: Run) -> None:
        recipe = run.recipe.label
        checkpoint, labels, rejects = map(run.table, ("checkpoint", "labels", "label_rejects"))
        self._labeller = PartLabeller(recipe, checkpoint.uri, labels, rejects)
        self._corpus, self._num_gpus = run.table("corpus"), recipe.gpus_per_actor
        self._columns = list(dict.fromkeys([schema.RECORD_ID, schema.TEXT, *recipe.keep]))
        self._metrics = ReplicaMetrics(run.recipe.name, "label", recipe.gpus_per_actor)

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Label one part of the corpus and commit it under its own name."""
        started_at = time.time()
        windows = read_windows(self._corpus, unit["name"], self._columns)
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
