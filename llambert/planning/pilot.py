"""A pilot: the stages of a run on a few hundred records, to measure how fast they are.

Its annotations are stored where the run will find them. The rest, a temporary small run, is removed.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from llambert import schema
from llambert.annotation.responses import NUM_FOUND, iter_answers
from llambert.annotation.sampling import Exclusion
from llambert.annotation.splits import is_training_gold, unused_splits
from llambert.execution.ray_executor import connect
from llambert.planning.forecast import PILOT_FILE, CurvePoint, Pilot, Timing, relative_deviation
from llambert.planning.subset_training import CrossValidation, measure_learning_curve
from llambert.recipe import ClassifierRecipe
from llambert.run import Run
from llambert.stages.annotate import annotate
from llambert.stages.finetune import finetune
from llambert.stages.ingest import ingest
from llambert.stages.label import label
from llambert.stages.parse import parse
from llambert.stages.sample import sample
from llambert.storage.locations import remove_folder
from llambert.storage.manifest import Manifest
from llambert.storage.run_directory import TableDirectory
from llambert.training.encoder import require_encoder

# Records to label: takes seconds; fewer would give an imprecise rate.
NUM_LABELLED = 2_000
# Optimizer steps: enough to average out the first ones, which are slow.
_MIN_STEPS = 40
# Of the number of records asked for, where the regime does not learn from all splits. IMDb's train split is a quarter.
_MAX_WIDENING = 4


def pilot(run: Run, num_records: int, with_curve: bool) -> Pilot:
    """Run the pilot and store its measurements; ``InputError`` as the stages raise it.

    The corpus is ingested, the sample drawn and its first records annotated as part of the run itself: as many as hold
    ``num_records`` that the recipe's regime learns from. Gold labels are read only if it trains on them.
    """
    require_encoder(run)
    ray_seconds = _start_ray()
    corpus = ingest(run)
    stages = {"ingest": _whole_stage(corpus)}
    sampled = sample(run)
    stages["sample"] = _whole_stage(sampled)
    few = with_num_records(run, num_records=num_to_annotate(run, num_records))
    stages["annotate"] = _annotate(few)
    silver = parse(_without_gold_prior(few))
    num_few = few.recipe.annotator.num_records
    stages["parse"] = Timing(num=num_few, work_seconds=silver.wall_seconds)
    with _temporary_run(run, _without_gold_prior(few)) as small:
        trained, labelled = finetune(small), label(small)
        lengths = _lengths(small.table("corpus"))
        deviation = relative_deviation(lengths[:num_few])
        stages["finetune"] = _training_timing(trained, deviation)
        stages["label"] = _labelling_timing(small, labelled, relative_deviation(lengths))
        is_measured = with_curve and run.recipe.classifier.learns_silver
        curve = measure_learning_curve(small) if is_measured else CrossValidation()
        num_learned = trained.counts.get("num_silver_train", 0) + trained.counts.get("num_silver_held_out", 0)
        scales = {"silver": sampled.num_kept / num_few, "gold": num_gold_records(run) / max(num_gold_records(small), 1)}
        num_steps = num_training_steps(run.recipe.classifier, trained, scales)
    found = Pilot(
        num_requested=min(num_records, sampled.num_kept),
        num_pilot_records=num_few,
        num_corpus=corpus.num_kept,
        num_annotated=sampled.num_kept,
        num_annotatable=sampled.num_kept + sampled.num_rejected[Exclusion.NOT_SAMPLED],
        num_steps=num_steps,
        num_unlearned=sum(
            sampled.counts.get(f"split.{name}", 0) for name in unused_splits(run.recipe.classifier.regime)
        ),
        learned_share=num_learned / num_few if curve.wrong else 1.0,
        usable_share=silver.num_kept / num_few,
        ray_seconds=ray_seconds,
        with_curve=with_curve,
        stages=stages,
        curve=[CurvePoint(num_labels=size, wrong=wrong) for size, wrong in curve.wrong.items()],
        scores=curve.scores,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _store(run, found)
    return found


def _store(run: Run, found: Pilot) -> None:
    stored = run.table("plan").write_file(PILOT_FILE, found.model_dump_json(indent=1).encode())
    run.complete("plan", [], num_kept=found.num_pilot_records, files=[stored])


def _start_ray() -> float:
    """Seconds to start or join Ray; 0 if it was running."""
    if ray.is_initialized():
        return 0.0
    started = time.monotonic()
    connect()
    return time.monotonic() - started


def _whole_stage(manifest: Manifest) -> Timing:
    """The measurement of a stage that the pilot completed for the run itself."""
    seconds, num = manifest.wall_seconds, manifest.num_in
    return Timing(num=max(num, 1), work_seconds=seconds, num_kept=num, spent_seconds=seconds)


# Annotate


def with_num_records(run: Run, num_records: int, **changes: Any) -> Run:
    """The run that annotates ``num_records``; ``changes`` are other fields of its ``annotator`` section."""
    annotator = run.recipe.annotator.model_copy(update={"num_records": num_records, **changes})
    return replace(run, recipe=run.recipe.model_copy(update={"annotator": annotator}))


def _without_gold_prior(run: Run) -> Run:
    """The run without gold prior correction, whose gold records may not be in the pilot's sample."""
    if run.recipe.parse.prior_correction != "gold":
        return run
    recipe = run.recipe.parse.model_copy(update={"prior_correction": "none"})
    return replace(run, recipe=run.recipe.model_copy(update={"parse": recipe}))


def num_to_annotate(run: Run, num_records: int) -> int:
    """How many records of the sample, from its first, hold ``num_records`` of splits that the regime learns from.

    At most ``_MAX_WIDENING`` times ``num_records``, and all records of a smaller sample.
    """
    splits = run.table("sample").read([schema.SPLIT])[schema.SPLIT]
    unused = pa.array(unused_splits(run.recipe.classifier.regime), pa.string())
    num_learned = np.cumsum(pc.invert(pc.is_in(splits, unused)).to_numpy())
    num = int(np.searchsorted(num_learned, num_records)) + 1
    return min(num, _MAX_WIDENING * num_records, len(splits))


def _annotate(few: Run) -> Timing:
    """Annotate the pilot's records, or read the manifest if they are annotated already.

    What is found in the answer store counts with the time that it took when it was asked.
    """
    was_complete = few.table("responses").read_manifest() is not None
    sample(few)
    manifest = annotate(few)
    is_first = not was_complete and not manifest.counts.get(NUM_FOUND)
    num, annotator = manifest.num_in, few.recipe.annotator
    startup = manifest.measures.get("startup_seconds", 0.0)
    working = max(manifest.wall_seconds - startup, 0.0)
    busy = min(len(manifest.parts), annotator.max_replicas)
    # Where all were asked now, wall time beyond startup and work: the other replicas' startup and the pool's shutdown.
    tail = max(working - manifest.busy_seconds / busy, 0.0) if is_first else 0.0
    columns = [schema.NUM_PROMPT_TOKENS, schema.NUM_RESPONSE_TOKENS]
    rows = pa.concat_tables([rows for _, rows in iter_answers(few.table, columns)])
    prompt, response = (rows[name].to_pylist() for name in columns)
    return Timing(
        num=num,
        work_seconds=manifest.busy_seconds,
        fixed_seconds=startup + tail,
        deviation=relative_deviation(prompt),
        num_kept=num,
        spent_seconds=manifest.wall_seconds,
        num_prompt_tokens=sum(prompt),
        num_response_tokens=sum(response),
    )


# Fine-tune and label, in a temporary run


@contextlib.contextmanager
def _temporary_run(run: Run, few: Run) -> Iterator[Run]:
    """A run with the pilot's silver records and a random part of the corpus, in a folder that is removed afterwards."""
    storage = f"{run.recipe.storage.rstrip('/')}/pilot"
    classifier = few.recipe.classifier
    num_silver = few.table("silver").require_manifest().num_kept
    epochs = -(-_MIN_STEPS // max(1, num_silver // classifier.batch_size))
    gold = classifier.gold.model_copy(update={"epochs": 1, "num_records": _MIN_STEPS * classifier.batch_size})
    changes: dict[str, Any] = {"epochs": min(classifier.epochs, epochs), "gold": gold, "soup_members": 1}
    changes |= {"num_records": None, "early_stop_patience": None}
    if not classifier.learns_silver:
        changes["num_records"] = _MIN_STEPS * classifier.batch_size
    updates = {"storage": storage, "classifier": classifier.model_copy(update=changes)}
    small = replace(few, recipe=few.recipe.model_copy(update=updates))
    filesystem, path = run.table("corpus").filesystem, f"{run.table('corpus').path().rsplit('/', 2)[0]}/pilot"
    remove_folder(filesystem, path)  # left by a pilot that was killed
    try:
        _complete(small, "silver", [few.table("silver").read()])
        _complete(small, "corpus", small_corpus(run, small))
        yield small
    finally:
        remove_folder(filesystem, path)


def _complete(small: Run, name: str, rows: list[pa.Table]) -> None:
    table = small.table(name)
    parts = [table.commit_part(f"part-{number:05d}.parquet", part) for number, part in enumerate(rows)]
    table.complete(small.tables[name].stage, parts)


def small_corpus(run: Run, small: Run) -> list[pa.Table]:
    """Random records of the corpus, annotated ones first, in parts of the size that the label stage will process."""
    corpus = run.table("corpus").require_manifest()
    distinct = corpus.num_kept - corpus.counts.get("num_duplicates", 0)
    num = max(min(NUM_LABELLED, distinct), small.recipe.annotator.num_records)
    wanted = _sampled_ids(with_num_records(run, num, splits=None))  # every split is labelled
    if run.recipe.annotator.splits is not None:
        annotated = _sampled_ids(with_num_records(run, small.recipe.annotator.num_records))
        others = wanted.filter(pc.invert(pc.is_in(wanted, value_set=annotated)))
        wanted = pa.concat_arrays([annotated, others[: max(num - len(annotated), 0)]])
    found = []
    for part in run.table("corpus").iter_tables():
        rank = pc.index_in(part[schema.RECORD_ID], value_set=wanted)
        found.append(part.append_column("rank", rank).filter(pc.is_valid(rank)))
    rows = pa.concat_tables(found).sort_by("rank").drop_columns(["rank"])
    if run.recipe.classifier.learns_gold:
        rows = pa.concat_tables([rows, *_extra_gold_records(run, wanted)])
    size = min(run.recipe.corpus.rows_per_part, -(-rows.num_rows // run.recipe.label.max_actors))
    return [rows.slice(start, size) for start in range(0, rows.num_rows, size)]


def _sampled_ids(run: Run) -> pa.Array:
    sample(run)
    return run.table("sample").read([schema.RECORD_ID])[schema.RECORD_ID].combine_chunks()


def _extra_gold_records(run: Run, taken: pa.Array) -> Iterator[pa.Table]:
    """Gold records that are not in ``taken``: gold may be so rare that a random part of the corpus has none."""
    num = _MIN_STEPS * run.recipe.classifier.batch_size
    for part in run.table("corpus").iter_tables():
        is_new = pc.invert(pc.is_in(part[schema.RECORD_ID], value_set=taken))
        rows = part.filter(pc.and_(is_training_gold(part), is_new)).slice(0, num)
        num -= rows.num_rows
        yield rows


def _lengths(corpus: TableDirectory) -> list[float]:
    """The number of characters of every text."""
    return [n for part in corpus.iter_tables([schema.TEXT]) for n in pc.utf8_length(part[schema.TEXT]).to_pylist()]


def _training_timing(manifest: Manifest, deviation: float) -> Timing:
    num_steps = manifest.counts["num_steps"]
    each = manifest.measures.get("seconds_per_step", manifest.busy_seconds / num_steps / manifest.counts["num_workers"])
    return Timing(
        num=num_steps,
        work_seconds=each * num_steps,
        fixed_seconds=max(manifest.wall_seconds - each * num_steps, 0.0),
        deviation=deviation,
    )


def _labelling_timing(small: Run, manifest: Manifest, deviation: float) -> Timing:
    num_actors = min(small.recipe.label.max_actors, len(manifest.parts))
    return Timing(
        num=manifest.num_in,
        work_seconds=manifest.busy_seconds,
        fixed_seconds=max(manifest.wall_seconds - manifest.busy_seconds / num_actors, 0.0),
        deviation=deviation,
    )


def num_training_steps(recipe: ClassifierRecipe, trained: Manifest, scales: dict[str, float]) -> int:
    """Optimizer steps of the whole fine-tuning, assuming the same share of usable records as in the pilot.

    ``scales``: the run's number of records relative to the pilot's, for silver and gold.
    """
    plans = dict.fromkeys(("silver", "gold"), (recipe.epochs, recipe.num_records))
    if recipe.regime == "combined":
        plans["gold"] = (recipe.gold.epochs, recipe.gold.num_records)
    steps = 0
    for phase, (epochs, most) in plans.items():
        beyond = trained.num_rejected.get(f"{phase}.{Exclusion.BEYOND_NUM_RECORDS}", 0)
        usable = round((trained.counts.get(f"num_{phase}_train", 0) + beyond) * scales[phase])
        steps += epochs * -(-min(usable, most or usable) // recipe.batch_size)
    return steps * recipe.soup_members


def num_gold_records(run: Run) -> int:
    """Number of gold records that the regime may learn from; 0, without reading gold, if it learns from none."""
    if not run.recipe.classifier.learns_gold:
        return 0
    parts = run.table("corpus").iter_tables([schema.SPLIT, schema.GOLD_LABEL])
    return sum(pc.sum(is_training_gold(part)).as_py() or 0 for part in parts)
