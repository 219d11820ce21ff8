"""Every option of fine-tuning against plain silver training, and gold labels as the ceiling.

    python -m tests.benchmarks.bench_finetune_options umls [--seeds 0 1 2 3 4] [--records 2000] [--options ema gce]
    python -m tests.benchmarks.bench_finetune_options runs/reviews [...]

Data: the UMLS regions (hard labels), or a finished run (``make demo``: with probabilities; judged on the gold
labels of records never annotated). Each option alone on top of plain training; accuracy as mean and 95 % interval
(t) over seeds, and the paired difference to plain, seed by seed; ``ensemble`` is the mean of the probabilities of
three plain trainings. Every training is stored: a stopped benchmark goes on, ``--stored`` prints what is there.
"""

import argparse
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import logging

from llambert import schema
from llambert.experiments.cell_training import train_cell
from llambert.experiments.cells import CellResult, CellStore, create_cell
from llambert.experiments.experiment_recipe import LabelledData
from llambert.experiments.results import mean_over_seeds
from llambert.experiments.sources import Labels, read_labels
from llambert.recipe import ClassifierRecipe
from tests.benchmarks import umls_regions

OPTIONS: dict[str, dict] = {
    "soft": {"loss": "soft"},
    "confidence_weights": {"confidence_weights": True},
    "min_confidence": {"min_confidence": 0.6},
    "gce": {"loss": "gce"},
    "smoothing": {"label_smoothing": 0.1},
    "class_weights": {"class_weights": True},
    "ema": {"averaging": "ema"},
    "tail": {"averaging": "tail"},
    "soup": {"soup_members": 3},
    "early_stop": {"held_out_share": 0.1, "early_stop_patience": 1},
    "no_dropout": {"dropout": 0.0},
    "unbucketed": {"bucketing": False},
    "soft, tail": {"loss": "soft", "averaging": "tail"},
    "soft, soup": {"loss": "soft", "soup_members": 3},
    "gold": {"regime": "gold"},
}
NEED_PROBABILITIES = {"soft", "confidence_weights", "min_confidence", "soft, tail", "soft, soup"}
ENSEMBLES = {"ensemble": "plain", "ensemble of soft": "soft"}
STORE_EVERY_S = 60.0
_MEMBERS = 3
_MEMBER_SEED = 100  # seeds of an ensemble's other members: 100 + 10 * seed + member


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="'umls', or the directory of a finished run of jobs/recipes/reviews.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--records", type=int, default=1_000, help="silver records trained on")
    parser.add_argument("--test", type=int, help="records of a run to judge by; default: all never annotated")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--options", nargs="*", choices=[*OPTIONS, *ENSEMBLES], help="default: all the data allows")
    parser.add_argument("--stored", action="store_true", help="train nothing, print what is stored")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", default="runs/experiments/cells", help="as jobs/experiments.py has it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.data == "umls":
        labels = umls_regions.load()
    else:
        labels = read_labels(LabelledData(run=arguments.data, num_test=arguments.test))
    store = CellStore(arguments.store)
    has_probabilities = labels.silver_of("silver")[schema.LABEL_PROBABILITIES].null_count == 0
    names = [*OPTIONS, *ENSEMBLES] if arguments.options is None else arguments.options
    if not has_probabilities:
        names = [name for name in names if name not in NEED_PROBABILITIES and name != "ensemble of soft"]
    right: dict[str, dict[int, np.ndarray]] = {}
    for seed in arguments.seeds:
        for name in ["plain", *names]:
            members = [
                stored_cell(recipe, labels, store, not arguments.stored)
                for recipe in member_recipes(arguments, name, seed)
            ]
            if any(member is None for member in members):
                continue
            probabilities = np.mean([member.probabilities for member in members if member], axis=0)
            right.setdefault(name, {})[seed] = probabilities.argmax(axis=1) == labels.test_records.labels
            print(f"seed {seed} {name}: {right[name][seed].mean():.2%}", flush=True)
    print_table(right)
    return 0


def stored_cell(recipe: ClassifierRecipe, labels: Labels, store: CellStore, train: bool) -> CellResult | None:
    """The cell of these settings, trained if it is not there and ``train``."""
    cell = create_cell(recipe, labels)
    if train and store.get(cell) is None:
        train_cell(cell, labels, store, STORE_EVERY_S, False, torch.device("cpu"))
    return store.get(cell)


def member_recipes(arguments: argparse.Namespace, name: str, seed: int) -> list[ClassifierRecipe]:
    """The trainings whose mean probabilities an option is: one, or an ensemble's members."""
    if name in ENSEMBLES:
        own = member_recipes(arguments, ENSEMBLES[name], seed)
        others = [_MEMBER_SEED + 10 * seed + member for member in range(1, _MEMBERS)]
        return own + [own[0].model_copy(update={"seed": other}) for other in others]
    settings = {
        "model": umls_regions.ENCODER,
        "num_records": arguments.records,
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "max_length": 128,
        "held_out_share": 0.0,
        "seed": seed,
    }
    return [ClassifierRecipe(**{**settings, **OPTIONS.get(name, {})})]


def print_table(right: dict[str, dict[int, np.ndarray]]) -> None:
    """A Markdown table; an option is compared with plain training on the seeds that both have."""
    print("\n| option | seeds | accuracy % | minus plain, points |\n|---|---|---|---|")
    for name, by_seed in right.items():
        accuracies = {seed: values.mean() for seed, values in by_seed.items()}
        both = [seed for seed in accuracies if seed in right["plain"]]
        difference = [accuracies[seed] - right["plain"][seed].mean() for seed in both]
        last = "" if name == "plain" else interval(difference)
        print(f"| {name} | {len(accuracies)} | {interval(list(accuracies.values()))} | {last} |")


def interval(values: list[float]) -> str:
    """Mean and half width of its 95 % interval over seeds (t), in per cent."""
    estimate = mean_over_seeds(values)
    if estimate.low is None:
        return f"{100 * estimate.value:.2f} (one seed)"
    return f"{100 * estimate.value:.2f} ± {100 * (estimate.value - estimate.low):.2f}"


if __name__ == "__main__":
    sys.exit(main())
