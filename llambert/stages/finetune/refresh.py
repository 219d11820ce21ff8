"""Which checkpoint labels a corpus that has grown: the one that is there, or one that is trained on today's sample.

Decided once for each generation, before finetune, and stored with its reason (``storage/refresh_decisions.py``).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.splits import unused_splits
from llambert.classifier.inference import Classifier
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.devices import placed, with_label_dtype
from llambert.hashing import hash64
from llambert.recipe import LabelRecipe
from llambert.run import Run
from llambert.storage.refresh_decisions import Decision, all_decisions, store_decision
from llambert.storage.run_directory import TableDirectory
from llambert.storage.table_files import require_whole
from llambert.training.drift import LEVEL, Agreement, has_enough, p_of_drop, p_of_shares

_MAX_RECORDS = 2_000  # of either kind, the first in sampling order: minutes on a CPU at most
_NOW, _BEFORE = "now", "before"


def choose_checkpoint(run: Run, executor: Executor) -> Run:
    """The run whose fingerprints say which checkpoint labels this generation of the corpus; decided if it is not yet.

    ``silver`` must be complete if ``classifier.refresh`` is ``auto`` and an earlier generation has a checkpoint.
    """
    if run.decision is None:
        decision = _decide(run, executor)
        store_decision(run.directory, run.checkpoint_recipe, run.recipe.classifier.refresh, decision)
    return run.at(run.generation)


def decision_note(run: Run) -> str:
    """A line on a checkpoint that stays, or on why another is trained; empty for the first one of a recipe."""
    decision = run.decision
    if decision is None or not (decision.stays or decision.replaces):
        return ""
    if not decision.stays:
        return f"finetune: the classifier is trained again: {decision.reason}"
    trained = run.table("checkpoint").require_manifest()
    return f"finetune: the checkpoint of {trained.completed_at[:10]} ({trained.fingerprint}) stays: {decision.reason}"


def _decide(run: Run, executor: Executor) -> Decision:
    refresh = run.recipe.classifier.refresh
    train = Decision(
        generation=run.generation,
        number=run.claim_generation(),
        trained_in=run.generation,
        checkpoint=run.fingerprint_if_trained,
        reason="it is the first one of this recipe",
    )
    before = _last_trained(run)
    if before is None:
        return train
    if before.trained_in == run.generation:
        return train.model_copy(update={"reason": "it was trained on this very corpus"})
    again = train.model_copy(update={"replaces": before.checkpoint})
    stay = train.model_copy(update={"trained_in": before.trained_in, "checkpoint": before.checkpoint})
    if refresh != "auto":
        return (again if refresh == "always" else stay).model_copy(
            update={"reason": f"classifier.refresh is {refresh}"}
        )
    drift = _measure(run, before, executor)
    return (again if drift.is_found else stay).model_copy(update={"reason": drift.reason, "figures": drift.figures})


def _last_trained(run: Run) -> Decision | None:
    """The latest decision of this recipe whose checkpoint is complete; None if there is none."""
    for decision in all_decisions(run.directory, run.checkpoint_recipe):
        if _table(run, "checkpoint", decision).read_manifest():
            return decision
    return None


def _table(run: Run, name: str, decision: Decision) -> TableDirectory:
    """A table that lives under the fingerprint of the checkpoint that was decided on."""
    return run.directory.table(name, decision.checkpoint, run.tables[name].schema)


@dataclass(frozen=True)
class _Drift:
    is_found: bool
    reason: str
    figures: dict[str, float]


@dataclass(frozen=True)
class _Rows:
    """Rows of the parts of ``silver`` of one generation: part -> places; ``labels``: how many have which."""

    places: dict[str, list[int]]
    labels: Counter[str]


def _measure(run: Run, decision: Decision, executor: Executor) -> _Drift:
    """Compare the checkpoint's agreement with the annotator on records of two kinds, both of which it did not learn.

    Those annotated since, and those annotated when it was trained: held out, or left out of training.
    """
    before = run.at(decision.trained_in)
    if before.table("silver").read_manifest() is None:
        return _Drift(False, "the silver labels of its time are gone, and there is nothing to compare it with", {})
    learned = _table(run, "learned", decision).read()
    trained = learned.filter(pc.invert(learned[schema.IS_HELD_OUT]))[schema.TEXT_HASH].to_numpy()
    then = [hash64(rows[schema.TEXT]) for _, rows in _population(before)]
    known = np.concatenate([np.zeros(0, np.uint64), *then, learned[schema.TEXT_HASH].to_numpy()])
    rows_now, rows_before = _choose(run, known), _choose(before, trained)
    measures = _compare(run, decision, {_NOW: rows_now, _BEFORE: rows_before}, executor)
    now, then_ = (Agreement(measures[f"{of}.num"], measures[f"{of}.num_equal"]) for of in (_NOW, _BEFORE))
    figures: dict[str, float] = {"num_now": now.num, "num_equal_now": now.num_equal}
    figures |= {"num_before": then_.num, "num_equal_before": then_.num_equal}
    if not has_enough(then_, now):
        reason = f"too few records can tell: {now.num:,} annotated since, {then_.num:,} of before that it did not learn"
        return _Drift(False, reason, figures)
    p_value, shares = p_of_drop(then_, now), p_of_shares(rows_before.labels, rows_now.labels)
    figures["p_value"] = p_value
    said = "it agrees with the annotator on"
    compared = f"{now} records annotated since, {then_} before (p = {p_value:.2g}, Fisher's exact test)"
    if shares is not None:
        figures["p_value_of_shares"] = shares
        differ = "differ from" if shares < LEVEL else "are like"
        compared += f"; the annotator's label shares {differ} those of before (p = {shares:.2g})"
    if p_value < LEVEL:
        return _Drift(True, f"{said} only {compared}", figures)
    return _Drift(False, f"{said} {compared}", figures)


def _population(run: Run) -> Iterator[tuple[str, pa.Table]]:
    """The silver records of each part that the regime would learn from, with their places in the part."""
    silver, recipe = run.table("silver"), run.recipe.classifier
    unwanted = pa.array(unused_splits(recipe.regime), pa.string())
    for part in silver.require_manifest().parts:
        rows = silver.read_part(part.name, [schema.TEXT, schema.SPLIT, schema.LABEL, schema.CONFIDENCE])
        rows = rows.append_column("place", pa.array(range(rows.num_rows), pa.int64()))
        rows = rows.filter(pc.invert(pc.is_in(rows[schema.SPLIT], unwanted)))
        if recipe.min_confidence > 0:
            rows = rows.filter(pc.greater_equal(rows[schema.CONFIDENCE], recipe.min_confidence))
        yield part.name, rows


def _choose(run: Run, left_out: np.ndarray) -> _Rows:
    """The first records in sampling order whose texts are none of ``left_out`` (hashes)."""
    places: dict[str, list[int]] = {}
    labels: Counter[str] = Counter()
    for name, rows in _population(run):
        kept = rows.filter(pa.array(~np.isin(hash64(rows[schema.TEXT]), left_out)))
        kept = kept.slice(0, _MAX_RECORDS - sum(map(len, places.values())))
        if kept.num_rows:
            places[name] = kept["place"].to_pylist()
            labels.update(kept[schema.LABEL].to_pylist())
    return _Rows(places, labels)


def _compare(run: Run, decision: Decision, chosen: dict[str, _Rows], executor: Executor) -> Counter[str]:
    """``<kind>.num`` records with a label of the checkpoint, and how many of them have the annotator's."""
    counts: Counter[str] = Counter()
    units = [
        {"of": of, "name": name, "rows": places} for of, rows in chosen.items() for name, places in rows.places.items()
    ]
    if not all(rows.places for rows in chosen.values()):  # nothing to compare: no model is loaded
        return Counter({f"{of}.num": sum(rows.labels.values()) for of, rows in chosen.items()})
    checkpoint = _table(run, "checkpoint", decision)
    require_whole(checkpoint)
    recipe = placed(with_label_dtype(run, executor), executor).recipe.label
    actors = (recipe.min_actors, recipe.max_actors, recipe.cpus_per_actor, recipe.gpus_per_actor or 0.0)
    pool = Pool(*actors, recipe.max_attempts, recipe.node_resource)
    silver = {_NOW: run.table("silver"), _BEFORE: run.at(decision.trained_in).table("silver")}
    arguments = (recipe, checkpoint.uri, silver)
    for outcome in executor.run("refresh", CompareLabels, arguments, units, pool):
        counts.update({name: int(num) for name, num in outcome.measures.items()})
    return counts


class CompareLabels:
    """The checkpoint, loaded once; called with some rows of a part of ``silver``."""

    def __init__(self, recipe: LabelRecipe, checkpoint: str, silver: dict[str, TableDirectory]) -> None:
        self._classifier, self._silver = Classifier.from_recipe(checkpoint, recipe), silver

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Count the labels that are equal; records that it cannot label do not count."""
        rows = self._silver[unit["of"]].read_part(unit["name"], [schema.TEXT, schema.LABEL])
        rows = rows.take(pa.array(unit["rows"], pa.int64()))
        predicted = self._classifier.predict(rows[schema.TEXT].to_pylist())
        pairs = [pair for pair in zip(predicted.labels, rows[schema.LABEL].to_pylist(), strict=True) if pair[0]]
        num_equal = sum(label == silver for label, silver in pairs)
        measures = {f"{unit['of']}.num": float(len(pairs)), f"{unit['of']}.num_equal": float(num_equal)}
        return Outcome([], predicted.busy_seconds, measures)
