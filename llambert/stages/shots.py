"""Gold shots: records with a gold label that the annotator is shown as worked answers, if the recipe has any."""

import time
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.prompts import Shot
from llambert.annotation.sampling import Purpose, Selection
from llambert.annotation.splits import TEST, TRAIN
from llambert.errors import InputError
from llambert.run import Run
from llambert.storage.manifest import Manifest
from llambert.tasks import Task


def draw_shots(run: Run) -> Manifest:
    """Write the ``shots`` table: gold records, of each category as many as of any other, to one; skipped when complete.

    The records of each category in the order of their hashes under ``gold_shots.seed``; the first of each, in the
    order of their hashes, then the second of each: the shots of n are the first n of those of more. ``InputError``
    where there are not enough.
    """
    table, annotator = run.table("shots"), run.recipe.annotator
    if manifest := table.read_manifest():
        return manifest
    started = time.monotonic()
    assert annotator.gold_shots is not None, "the recipe asks for no gold shots"
    if not annotator.num_shots:
        raise InputError("annotator.num_shots: say how many shots to draw from gold records")
    rows = _choose_shots(run, annotator.num_shots)
    return run.complete(
        "shots",
        [table.commit_part("part-0.parquet", rows)],
        recipe={"num_shots": annotator.num_shots, **annotator.gold_shots.model_dump(mode="json")},
        wall_seconds=time.monotonic() - started,
    )


def _choose_shots(run: Run, num_shots: int) -> pa.Table:
    names, seed = run.task.category_names, run.recipe.annotator.gold_shots.seed  # type: ignore[union-attr]
    per_category = -(-num_shots // len(names))
    found = {name: Selection.empty() for name in names}
    texts: dict[str, str] = {}
    for rows in _shot_candidates(run):
        for name in names:
            of_name = rows.filter(pc.equal(rows[schema.GOLD_LABEL], name))
            smallest = Selection.smallest(of_name[schema.RECORD_ID], per_category, seed, Purpose.GOLD_SHOTS)
            found[name] = found[name].merge(smallest, per_category)
            chosen = of_name.filter(pc.is_in(of_name[schema.RECORD_ID], value_set=found[name].record_ids))
            texts |= dict(zip(chosen[schema.RECORD_ID].to_pylist(), chosen[schema.TEXT].to_pylist(), strict=True))
    ordered = sorted(
        (turn, hashed, record_id, name)
        for name, of_name in found.items()
        for turn, (hashed, record_id) in enumerate(
            zip(of_name.hashes.tolist(), of_name.record_ids.to_pylist(), strict=True)
        )
    )[:num_shots]
    nums = {name: len(of_name) for name, of_name in found.items()}
    if len(ordered) < num_shots or min(nums.values()) < num_shots // len(names):
        raise InputError(
            f"annotator.gold_shots: {num_shots} shots need {per_category} gold records of each category that are "
            f"no longer than max_chars and not in split 'test'; the corpus has {nums}"
        )
    columns = {
        schema.RECORD_ID: [record_id for _, _, record_id, _ in ordered],
        schema.TEXT: [texts[record_id] for _, _, record_id, _ in ordered],
        schema.GOLD_LABEL: [name for _, _, _, name in ordered],
    }
    return pa.table(columns, schema=schema.SHOTS)


def _shot_candidates(run: Run) -> Iterator[pa.Table]:
    """Gold records that may be shown: of split ``train`` if there is one, never of ``test``, short, no duplicates."""
    corpus, gold_shots = run.table("corpus"), run.recipe.annotator.gold_shots
    assert gold_shots is not None
    splits = corpus.iter_tables([schema.SPLIT])
    has_train = any(pc.any(pc.equal(rows[schema.SPLIT], TRAIN)).as_py() for rows in splits)
    excluded = run.table("duplicates").read([schema.RECORD_ID])[schema.RECORD_ID].combine_chunks()
    for rows in corpus.iter_tables([schema.RECORD_ID, schema.TEXT, schema.SPLIT, schema.GOLD_LABEL]):
        split = rows[schema.SPLIT]
        is_open = pc.equal(split, TRAIN) if has_train else pc.not_equal(split, TEST)
        is_short = pc.less_equal(pc.utf8_length(rows[schema.TEXT]), gold_shots.max_chars)
        is_first = pc.invert(pc.is_in(rows[schema.RECORD_ID], value_set=excluded))
        yield rows.filter(pc.and_(pc.and_(is_open, is_short), is_first))


def prompted_task(run: Run) -> Task:
    """The run's task with the shots that its annotator is shown; they must have been drawn, if drawn they are."""
    if run.recipe.annotator.gold_shots is None:
        return run.task
    rows = run.table("shots").read().to_pylist()
    shots = tuple(Shot(text=row[schema.TEXT], label=row[schema.GOLD_LABEL]) for row in rows)
    return run.task.with_shots(run.recipe.annotator.prompt, shots)
