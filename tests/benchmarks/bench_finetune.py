"""The training core against a plain Hugging Face ``Trainer``: same encoder, data, batch size, epochs, schedule.

    python -m tests.benchmarks.bench_finetune [--seeds 0 1 2] [--records 2000] [--epochs 2] [--threads 2]
    python -m tests.benchmarks.bench_finetune --curves --seeds 0 1 2

UMLS regions, labels of Llama-2-70b-chat, MiniLM. Both pad to the longest text of a batch; ours buckets by
length and, where the chip multiplies bfloat16, autocasts (also shown without: ``float32``). Accuracy is on the
1,000 gold test concepts. Times are of training alone, tokenization included, model loading not. Exit status 1
above the ceiling of 0.6 of the Trainer's time, or if the 95 % interval of the difference in accuracy leaves out
nought: over seeds (t) where there are several, else over the concepts, which leaves the noise of a seed (about
half a point) out. About four minutes a seed on two cores.

``--curves``: smoothed loss and accuracy of bucketed and of unbucketed training, two seeds or more; exit status 1 if a
bucketed and an unbucketed curve of different seeds lie further apart than 1.2 times two unbucketed ones, or if the 95 %
interval of the difference in accuracy leaves out nought.
"""

import argparse
import os
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from scipy import stats
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, logging

from llambert.evaluation.metrics import paired_difference
from llambert.experiments.sources import Labels
from llambert.recipe import ClassifierRecipe
from llambert.training.encoder import Encoder, load_encoder
from llambert.training.loop import FineTuning, History, Phase
from llambert.training.training_set import TrainingSet, select_silver
from tests.benchmarks import umls_regions

CEILING = 0.6
APART_CEILING = 1.2
SIDES = {"llambert, auto": "auto", "llambert, float32": "float32", "Trainer": None}
SMOOTHED_OVER = 50
"""Steps of the moving mean; a window of bucketing holds as many batches, so each mean has all lengths in it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2_000, help="silver records trained on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--curves", action="store_true", help="bucketed against unbucketed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    labels = umls_regions.load()
    recipe = ClassifierRecipe(
        model=umls_regions.ENCODER,
        epochs=arguments.epochs,
        num_records=arguments.records,
        learning_rate=1e-4,
        held_out_share=0.0,
        seed=0,  # of the records: the same for every seed
    )
    print(f"{arguments.records} records, {recipe.epochs} epochs, batch size {recipe.batch_size}")
    if arguments.curves and len(arguments.seeds) < 2:
        parser.error("--curves compares runs of different seeds: give --seeds two or more")
    return (compare_curves if arguments.curves else compare_with_trainer)(recipe, labels, arguments.seeds)


def compare_with_trainer(recipe: ClassifierRecipe, labels: Labels, seeds: list[int]) -> int:
    """Times and accuracies of both sides; the exit status."""
    train = select_silver(
        labels.silver_of("silver"), labels.categories, recipe
    ).train  # the same records for every seed
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    right: dict[str, list[np.ndarray]] = {name: [] for name in SIDES}
    for seed in seeds:
        for name, dtype in SIDES.items():
            seeded = recipe.model_copy(update={"seed": seed, "dtype": dtype or "float32"})
            encoder = load_encoder(seeded, labels.categories)
            started = time.perf_counter()
            if dtype is None:
                train_theirs(encoder, train, seeded)
            else:
                train_ours(encoder, train, seeded)
            seconds[name].append(time.perf_counter() - started)
            right[name].append(predict(encoder, labels.test_records.texts) == labels.test_records.labels)
            print(f"seed {seed} {name:18} {seconds[name][-1]:7.1f} s, {right[name][-1].mean():.2%}", flush=True)
    within = True
    ratios = {name: sum(seconds[name]) / sum(seconds["Trainer"]) for name in SIDES if name != "Trainer"}
    for name, ratio in ratios.items():
        value, low, high = accuracy_difference(right[name], right["Trainer"])
        within &= low <= 0 <= high
        print(f"{name}: {ratio:.3f} of the Trainer's time, accuracy {value:+.2%} [{low:+.2%}, {high:+.2%}]")
    return 0 if within and ratios["llambert, auto"] <= CEILING else 1


def accuracy_difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[float, float, float]:
    """Its value and 95 % interval: over seeds, or with one seed over the concepts."""
    if len(ours) == 1:
        difference = paired_difference(ours[0], theirs[0])
        return difference.value, *difference.bounds
    values = np.array([a.mean() - b.mean() for a, b in zip(ours, theirs, strict=True)])
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean(), values.mean() - half, values.mean() + half


def compare_curves(recipe: ClassifierRecipe, labels: Labels, seeds: list[int]) -> int:
    """Smoothed losses and accuracies, bucketed and unbucketed, of every seed; the exit status."""
    silver = labels.silver_of("silver")
    train = select_silver(silver, labels.categories, recipe).train  # the same records for all
    curves: dict[bool, list[np.ndarray]] = {True: [], False: []}
    right: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for seed in seeds:
        for bucketing in (True, False):
            changed = recipe.model_copy(update={"seed": seed, "bucketing": bucketing})
            # The same first weights of the head: what differs is the order of the records and the dropout.
            encoder = load_encoder(recipe, labels.categories)
            started = time.perf_counter()
            losses = [step.loss for step in train_ours(encoder, train, changed).steps]
            curve = np.convolve(losses, np.full(SMOOTHED_OVER, 1 / SMOOTHED_OVER), mode="valid")
            curves[bucketing].append(curve)
            right[bucketing].append(predict(encoder, labels.test_records.texts) == labels.test_records.labels)
            at = [f"{curve[step]:.3f}" for step in np.linspace(0, len(curve) - 1, 5).astype(int)]
            print(
                f"seed {seed} {'bucketed' if bucketing else 'unbucketed':10} {time.perf_counter() - started:6.0f} s, "
                f"accuracy {right[bucketing][-1].mean():.2%}, smoothed loss {' '.join(at)}",
                flush=True,
            )
    apart = {True: mean_distance(curves[True], curves[False]), False: mean_distance(curves[False], curves[False])}
    print(
        f"mean difference of smoothed losses between runs of different seeds: bucketed from unbucketed "
        f"{apart[True]:.4f}, unbucketed from unbucketed {apart[False]:.4f}"
    )
    value, low, high = accuracy_difference(right[True], right[False])
    print(f"bucketed minus unbucketed: accuracy {value:+.2%} [{low:+.2%}, {high:+.2%}]")
    return 0 if apart[True] <= APART_CEILING * apart[False] and low <= 0 <= high else 1


def mean_distance(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The mean absolute difference of two curves, over all pairs of different seeds."""
    pairs = [(i, j) for i in range(len(ours)) for j in range(len(theirs)) if i != j]
    return float(np.mean([np.abs(ours[i] - theirs[j]).mean() for i, j in pairs]))


def train_ours(encoder: Encoder, train: TrainingSet, recipe: ClassifierRecipe) -> History:
    """The loss curve."""
    nothing = train.take(np.arange(0))
    phases = [Phase("silver", train, nothing, recipe.epochs, recipe.learning_rate)]
    return FineTuning(encoder, phases, recipe, list(umls_regions.CATEGORIES)).run()


def train_theirs(encoder: Encoder, train: TrainingSet, recipe: ClassifierRecipe) -> None:
    """Tokenize, and train as the Trainer's documentation says."""
    encoded = encoder.tokenizer(train.texts, truncation=True, max_length=encoder.max_length)
    rows = [
        {"input_ids": ids, "attention_mask": mask, "labels": int(label)}
        for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], train.labels, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            warmup_steps=round(recipe.warmup_share * recipe.epochs * -(-len(rows) // recipe.batch_size)),
            lr_scheduler_type="linear",
            seed=recipe.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        collator = DataCollatorWithPadding(encoder.tokenizer)
        Trainer(encoder.model, arguments, data_collator=collator, train_dataset=rows).train()  # type: ignore[arg-type]


def predict(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Category indices, by the same float32 code for both sides."""
    encoder.model.eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(texts), 50):
            batch = encoder.tokenizer(
                texts[start : start + 50],
                truncation=True,
                max_length=encoder.max_length,
                padding=True,
                return_tensors="pt",
            )
            found.append(encoder.model(**batch).logits.argmax(-1).numpy())
    return np.concatenate(found)


if __name__ == "__main__":
    sys.exit(main())
