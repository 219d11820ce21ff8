"""A finished run written by hand: random records, an annotator and a classifier with known error rates."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.corpus_recipe import CorpusRecipe
from llambert.recipe import AnnotatorRecipe, ClassifierRecipe, Recipe
from llambert.run import Run
from llambert.run_directory import Manifest, write_whole
from llambert.tasks import Task, load_task

HOSTILE = "<script>alert('x')</script> | `tick` ``` fence </details> \u202e\x00 & _it_"


@dataclass(frozen=True)
class Plan:
    """What the run is like. ``gold`` is the share of records that have a gold label."""

    num: int = 600
    num_annotated: int = 200
    num_stored: int = 200
    """Responses in the table; the run uses the first ``num_annotated``."""
    gold: float = 1.0
    num_duplicates: int = 10
    num_rejected: int = 4
    silver_accuracy: float = 0.8
    classifier_accuracy: float = 0.9
    probabilities: bool = True
    splits: tuple[str, ...] = ("all",)
    mode: str = "score"
    copies: tuple[tuple[int, int], ...] = ()
    """More duplicates: places of a record and of the first record with its text."""
    annotator: dict = field(default_factory=dict)
    """More of that section; with ``splits`` the records of these alone are annotated."""
    regime: str = "silver"
    seed: int = 0
    categories: tuple[str, str] = ("positive", "negative")
    """What the task's two categories are called."""


def write_run(folder: Path, plan: Plan) -> Run:
    """All tables of a run up to its labels, in several parts, as the stages write them."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_text("weights")
    (folder / "corpus.csv").write_text("text\n")
    run = Run(
        Recipe(
            name="synthetic",
            task="reviews",
            corpus=CorpusRecipe(
                path=str(folder / "corpus.csv"), columns={"split": "split"} if len(plan.splits) > 1 else {}
            ),
            annotator=AnnotatorRecipe(
                model=str(folder / "model"),
                num_records=plan.num_annotated,
                mode=plan.mode,
                prompt="completion",
                **plan.annotator,
            ),
            classifier=ClassifierRecipe(model=str(folder / "model"), regime=plan.regime),
            storage=str(folder / "run"),
        ),
        _task(plan.categories),
    )
    rng = np.random.default_rng(plan.seed)
    truth = rng.integers(0, 2, plan.num)
    silver = np.where(rng.random(plan.num) < plan.silver_accuracy, truth, 1 - truth)
    given = np.where(rng.random(plan.num) < plan.classifier_accuracy, truth, 1 - truth)
    ids = [f"r{index:05d}" for index in range(plan.num)]
    _write_corpus(run, plan, rng, ids, truth)
    # Annotated records are the last ones, so that the duplicates (the first ones) are never among them.
    drawn = rng.permutation(np.arange(plan.num_duplicates, plan.num))
    sampled = plan.annotator.get("splits", plan.splits)
    copies = {copy for copy, _ in plan.copies}
    open_places = [int(n) for n in drawn if n not in copies and plan.splits[n % len(plan.splits)] in sampled]
    stored = open_places[: plan.num_stored]
    _write_responses(run, plan, ids, stored, silver)
    _write_silver(run, plan, ids, stored[: plan.num_annotated], silver)
    _write_checkpoint(run, plan)
    _write_labels(run, plan, rng, ids, given)
    return run


def _task(names: tuple[str, str]) -> Task:
    task = load_task("reviews")
    categories = [
        category.model_copy(update={"name": name}) for category, name in zip(task.categories, names, strict=True)
    ]
    return task.model_copy(update={"categories": tuple(categories)})


def _write(run: Run, name: str, tables: list[pa.Table], stage: str, **values) -> None:
    directory = run.table(name)
    parts = [directory.commit_part(f"part-{index:05d}.parquet", table) for index, table in enumerate(tables)]
    num = sum(part.num_rows for part in parts)
    counted = {"num_in": num, "num_kept": num, "wall_seconds": 1.0, **values}
    directory.write_manifest(Manifest(stage=stage, fingerprint="f" * 12, parts=parts, **counted))


def _write_corpus(run: Run, plan: Plan, rng: np.random.Generator, ids: list[str], truth: np.ndarray) -> None:
    with_gold = rng.random(plan.num) < plan.gold
    table = pa.table(
        {
            schema.RECORD_ID: ids,
            schema.TEXT: ["word " * int(length) for length in rng.integers(1, 30, plan.num)],
            schema.SPLIT: [plan.splits[index % len(plan.splits)] for index in range(plan.num)],
            schema.GOLD_LABEL: pa.array(
                [plan.categories[truth[i]] if with_gold[i] else None for i in range(plan.num)], pa.string()
            ),
        },
        schema=schema.CORPUS,
    )
    halves = [table.slice(0, plan.num // 2), table.slice(plan.num // 2)]
    rejected = {"excluded": 7, "empty_text": 2}
    _write(run, "corpus", halves, "ingest", num_in=plan.num + 9, num_kept=plan.num, num_rejected=rejected)
    copies = [(copy, len(ids) - 1) for copy in range(plan.num_duplicates)] + list(plan.copies)
    duplicates = pa.table(
        [[ids[copy] for copy, _ in copies], [ids[first] for _, first in copies]], schema=schema.DUPLICATES
    )
    _write(run, "duplicates", [duplicates], "ingest")


def _write_responses(run: Run, plan: Plan, ids: list[str], stored: list[int], silver: np.ndarray) -> None:
    # Raw probabilities lean to "positive": every third negative answer is called positive.
    lean = np.arange(plan.num) % 3 == 0
    raw = np.where((silver == 1) & ~lean, 0.3, 0.6)
    probabilities = schema.probability_rows(list(plan.categories), np.stack([raw, 0.9 - raw], axis=1)[stored])
    num = len(stored)
    table = pa.table(
        {
            schema.RECORD_ID: [ids[i] for i in stored],
            schema.TEXT: ["word"] * num,
            schema.PROMPT: [f"Movie review: {HOSTILE}"] * num,
            schema.RESPONSE: [" positive"] * num,
            schema.FINISH_REASON: ["stop"] * num,
            schema.LABEL_PROBABILITIES: probabilities if plan.probabilities else [None] * num,
            schema.NUM_PROMPT_TOKENS: [20] * num,
            schema.NUM_RESPONSE_TOKENS: [1] * num,
            schema.NUM_TRUNCATED_TOKENS: [0] * num,
            schema.MODEL: ["tiny-llm"] * num,
            schema.ERROR: [None] * num,
            schema.ERROR_KIND: [None] * num,
        },
        schema=schema.RESPONSES,
    )
    halves = [table.slice(0, num // 2), table.slice(num // 2)]
    _write(run, "responses", halves, "annotate", wall_seconds=25.0, busy_seconds=0.1 * num, model="tiny-llm")


def _write_silver(run: Run, plan: Plan, ids: list[str], annotated: list[int], silver: np.ndarray) -> None:
    lost, kept = annotated[: plan.num_rejected], annotated[plan.num_rejected :]
    confidence = [0.6 + 0.4 * (i % 10) / 10 for i in kept]
    table = pa.table(
        {
            schema.RECORD_ID: [ids[i] for i in kept],
            schema.TEXT: ["word"] * len(kept),
            schema.LABEL: [plan.categories[silver[i]] for i in kept],
            schema.LABEL_PROBABILITIES: [None] * len(kept),
            schema.CONFIDENCE: confidence if plan.probabilities else [None] * len(kept),
        },
        schema=schema.SILVER,
    )
    reasons = {"no_category": len(lost)} if lost else {}
    _write(run, "silver", [table], "parse", num_in=len(annotated), num_kept=len(kept), num_rejected=reasons)
    rejects = pa.table(
        {
            schema.RECORD_ID: [ids[i] for i in lost],
            schema.RESPONSE: ["?"] * len(lost),
            schema.REJECT_REASON: ["no_category"] * len(lost),
        },
        schema=schema.REJECTS,
    )
    _write(run, "rejects", [rejects], "parse")


def _write_checkpoint(run: Run, plan: Plan) -> None:
    checkpoint = run.table("checkpoint")
    epochs = [{"phase": "silver", "epoch": 1, "training_loss": 0.5, "accuracy": 0.75}]
    record = {"versions": {"torch": "2.13.0"}, "epochs": epochs, "steps": []}
    write_whole(checkpoint.filesystem, checkpoint.path("training_record.json"), json.dumps(record).encode())
    _write(run, "checkpoint", [], "finetune", num_in=plan.num_annotated, num_kept=plan.num_annotated, busy_seconds=8.0)


def _write_labels(run: Run, plan: Plan, rng: np.random.Generator, ids: list[str], given: np.ndarray) -> None:
    # In another order than the corpus: the report joins by record_id.
    order = rng.permutation(len(ids))
    table = pa.table(
        {
            schema.RECORD_ID: [ids[i] for i in order],
            schema.LABEL: [plan.categories[given[i]] for i in order],
            schema.SCORE: pa.array(0.5 + 0.5 * rng.random(len(ids)), pa.float32()),
        },
        schema=schema.LABELS,
    )
    parts = [table.slice(0, 100), table.slice(100)]
    _write(run, "labels", parts, "label", wall_seconds=4.0, busy_seconds=3.0, model="tiny-bert")
