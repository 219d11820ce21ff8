"""What bucketing costs in accuracy and saves in time, and how often two records of one batch meet again.

    python -m tests.benchmarks.bench_bucketing [--seeds 25] [--records 800] [--epochs 3] [--store FILE]
    python -m tests.benchmarks.bench_bucketing --plans          # meetings and positions only, a minute

UMLS regions, labels of Llama-2-70b-chat, texts cut at 64 tokens, all layers of MiniLM (of the first two some trainings
collapse to one category), 2,000 concepts with gold labels as the test set. Each seed draws records, head and dropout,
the same for the three ways to make batches: ``unbucketed``; ``windows``, the records shuffled and sorted by length
inside windows of 50 batches; and ``llambert``, as shipped. Intervals: 95 %, t over seeds. Times are CPU seconds of
training alone, tokenization included. ``--plans`` also has the lengths of reviews: those of 250 IMDb reviews,
interpolated and cut at 512 tokens. Exit status 1 if ``llambert`` costs more than 0.3 points against ``unbucketed``.
About three minutes a seed on one core; ``--store`` keeps each training, so that a stopped benchmark resumes.
"""

import argparse
import gzip
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import logging

from llambert import schema
from llambert.experiments.results import mean_over_seeds
from llambert.experiments.sources import Labels
from llambert.recipe import ClassifierRecipe
from llambert.training import loop
from llambert.training.batches import plan_epoch
from llambert.training.encoder import load_encoder
from llambert.training.loop import FineTuning, Phase
from llambert.training.training_set import TrainingSet, select_silver
from tests.benchmarks import umls_regions

MAX_COST = 0.003
SIZES, BATCH_SIZES = (200, 800, 3_200, 50_000), (16, 32)
_WINDOW_BATCHES = 50
_MAX_LENGTH = 64
_IMDB = umls_regions.FOLDER.parent / "imdb" / "prompt_engineering_250.jsonl.gz"

Plan = Callable[[np.ndarray, int, Sequence[int], bool], list[np.ndarray]]


def plan_windows(lengths: np.ndarray, batch_size: int, seed: Sequence[int], bucketing: bool) -> list[np.ndarray]:
    """Windows of 50 batches, sorted: of a smaller set, nearly the same batches each epoch."""
    random = np.random.default_rng(list(seed))
    order = random.permutation(len(lengths))
    window = _WINDOW_BATCHES * batch_size
    runs = [order[start : start + window] for start in range(0, len(order), window)]
    order = np.concatenate([run[np.argsort(lengths[run], kind="stable")] for run in runs])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[position] for position in random.permutation(len(batches))]


def plan_unbucketed(lengths: np.ndarray, batch_size: int, seed: Sequence[int], bucketing: bool) -> list[np.ndarray]:
    """Random batches."""
    return plan_epoch(lengths, batch_size, seed, False)


PLANS: dict[str, Plan] = {"unbucketed": plan_unbucketed, "windows": plan_windows, "llambert": plan_epoch}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=25)
    parser.add_argument("--records", type=int, default=800, help="silver records trained on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--layers", type=int, default=6, help="of the encoder's six")
    parser.add_argument("--store", type=Path, help="a file of finished trainings, a JSON line each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plans", action="store_true", help="no training: meetings and positions of more sizes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    labels = umls_regions.load()
    return compare_plans(labels) if arguments.plans else compare_trainings(arguments, labels)


def meeting(lengths: np.ndarray, batch_size: int, plan: Plan, seed: int, epochs: int) -> tuple[float, float]:
    """How likely two records of one batch meet in the next epoch, and computed positions per token."""
    met = pairs = positions = 0
    before: np.ndarray | None = None
    for epoch in range(epochs):
        batches = plan(lengths, batch_size, (seed, 3, 0, epoch), True)  # the seed that the loop gives
        batch_of = np.empty(len(lengths), dtype=np.int64)
        for number, batch in enumerate(batches):
            batch_of[batch] = number
            if before is not None:
                met += int((before[batch][:, None] == before[batch]).sum()) - len(batch)
                pairs += len(batch) * (len(batch) - 1)
            positions += len(batch) * int(lengths[batch].max())
        before = batch_of
    return met / pairs, positions / (epochs * int(lengths.sum()))


def compare_plans(labels: Labels) -> int:
    """A table of meetings and positions; the exit status."""
    encoder = load_encoder(ClassifierRecipe(model=umls_regions.ENCODER, max_length=512), labels.categories)
    texts = {"UMLS": labels.silver_of("silver")[schema.TEXT].to_pylist()}
    if _IMDB.is_file():
        with gzip.open(_IMDB, "rt") as lines:
            texts["IMDb"] = [json.loads(line)["text"] for line in lines]
    else:
        print(f"IMDb skipped: {_IMDB} does not exist")
    print(f"\n| lengths | records | batch size | {' | '.join(PLANS)} |\n|---|---|---|{'---|' * len(PLANS)}")
    for name, found in texts.items():
        lengths = np.sort([len(ids) for ids in encoder.tokenize(found)])
        for num in SIZES:
            places = np.random.default_rng(num).uniform(0, len(lengths) - 1, num)
            drawn = np.interp(places, np.arange(len(lengths)), lengths).round().astype(np.int64)
            for size in BATCH_SIZES:
                epochs = 3 if num > 10_000 else 10
                figures = [meeting(drawn, size, plan, 0, epochs) for plan in PLANS.values()]
                cells = " | ".join(f"{met:.3f}, {positions:.2f}" for met, positions in figures)
                print(f"| {name} | {num:,} | {size} | {cells} |", flush=True)
    print("Each: probability that two records of one batch meet in the next epoch, computed positions per token")
    return 0


def compare_trainings(arguments: argparse.Namespace, labels: Labels) -> int:
    """Accuracies, times and differences; the exit status."""
    test = gold_records(labels)
    silver = labels.silver_of("silver")
    silver = silver.filter(pc.invert(pc.is_in(silver[schema.TEXT], pa.array(test.texts))))
    print(
        f"{arguments.records} records, {arguments.epochs} epochs, batch size {arguments.batch_size}, {len(test)} test"
    )
    settings = [arguments.records, arguments.epochs, arguments.batch_size, arguments.layers]
    stored = read_trainings(arguments.store, settings)
    for seed in range(arguments.seeds):
        recipe = ClassifierRecipe(
            model=umls_regions.ENCODER,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            num_records=arguments.records,
            max_length=_MAX_LENGTH,
            learning_rate=1e-4,
            held_out_share=0.0,
            seed=seed,
        )
        train = select_silver(silver, labels.categories, recipe).train
        for name in PLANS:
            if (name, seed) not in stored:
                figures = train_once(recipe, name, arguments.layers, labels.categories, train, test)
                stored[name, seed] = figures
                if arguments.store:
                    with arguments.store.open("a") as lines:
                        lines.write(json.dumps({"settings": settings, "plan": name, "seed": seed, **figures}) + "\n")
        print(
            f"seed {seed}: " + ", ".join(f"{name} {stored[name, seed]['accuracy']:.2%}" for name in PLANS), flush=True
        )
    return print_table({name: [stored[name, seed] for seed in range(arguments.seeds)] for name in PLANS})


def read_trainings(store: Path | None, settings: list[int]) -> dict[tuple[str, int], dict[str, Any]]:
    """(plan, seed) -> the figures of the stored trainings of these settings."""
    lines = store.read_text().splitlines() if store and store.exists() else []
    found = [values for values in map(json.loads, lines) if values["settings"] == settings]
    return {(values["plan"], values["seed"]): values for values in found}


def train_once(
    recipe: ClassifierRecipe, name: str, num_layers: int, categories: list[str], train: TrainingSet, test: TrainingSet
) -> dict[str, float]:
    """The figures of one training with the batches of ``PLANS[name]``."""
    encoder = load_encoder(recipe, categories)
    layers: Any = encoder.model.bert.encoder
    layers.layer = layers.layer[:num_layers]
    phases = [Phase("silver", train, train.take(np.arange(0)), recipe.epochs, recipe.learning_rate)]
    tuning = FineTuning(encoder, phases, recipe, categories)
    started = time.process_time()
    with mock.patch.object(loop, "plan_epoch", PLANS[name]):
        tuning.run()
    seconds = time.process_time() - started
    probabilities = tuning.predict(encoder.model, tuning.tokenized(test))
    lengths = tuning.tokenized(train).lengths
    met, positions = meeting(lengths, recipe.batch_size, PLANS[name], recipe.seed, recipe.epochs)
    accuracy = float((probabilities.argmax(axis=1) == test.labels).mean())
    return {"accuracy": accuracy, "met": met, "positions": positions, "seconds": seconds}


def gold_records(labels: Labels) -> TrainingSet:
    """The concepts with gold labels, test and training ones: none is trained on here."""
    tables = [table.select([schema.TEXT, schema.GOLD_LABEL]) for table in (labels.test, labels.gold_train())]
    return Labels(labels.categories, None, None, pa.concat_tables(tables)).test_records


def print_table(trainings: dict[str, list[dict[str, Any]]]) -> int:
    """A Markdown table; the exit status."""
    header = ["batches", "accuracy %", "minus unbucketed, points", "meet again", "positions a token", "CPU s"]
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    costs = {}
    for name, found in trainings.items():
        pairs = zip(found, trainings["unbucketed"], strict=True)
        difference = mean_over_seeds([a["accuracy"] - b["accuracy"] for a, b in pairs])
        costs[name] = -difference.value
        last = "" if name == "unbucketed" else f"{100 * difference.value:+.2f}"
        if last and difference.low is not None and difference.high is not None:
            last += f" ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})"
        means = {key: np.mean([values[key] for values in found]) for key in ("accuracy", "met", "positions", "seconds")}
        print(
            f"| {name} | {100 * means['accuracy']:.2f} | {last} | {means['met']:.3f} | {means['positions']:.2f} "
            f"| {means['seconds']:.1f} |"
        )
    return 1 if costs["llambert"] > MAX_COST else 0


if __name__ == "__main__":
    sys.exit(main())
