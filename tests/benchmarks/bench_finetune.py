"""The training core against a plain Hugging Face ``Trainer``: same encoder, data, batch size, epochs, schedule.

    python tests/benchmarks/bench_finetune.py [--seeds 0 1 2] [--records 2000] [--epochs 2] [--threads 2]
    python tests/benchmarks/bench_finetune.py --curves

UMLS regions, labels of Llama-2-70b-chat, MiniLM. Both pad to the longest text of a batch; ours buckets by
length and, where the chip multiplies bfloat16, autocasts (also shown without: ``float32``). Accuracy is on the
1,000 gold test concepts. Times are of training alone, tokenization included, model loading not. Exit status 1
above the ceiling of 0.6 of the Trainer's time, or if the 95 % interval of the difference in accuracy leaves out
nought: over seeds (t) where there are several, else over the concepts, which leaves the noise of a seed (about
half a point) out. About four minutes a seed on two cores.

``--curves``: smoothed loss of bucketed and unbucketed training, beside two unbucketed ones that differ in seed;
exit status 1 if bucketing moves the curve further than twice what another seed does.
"""

import argparse
import sys
import tempfile
import time

import numpy as np
import torch
import umls_regions
from finetune_cells import prepare
from scipy import stats
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from llambert import schema
from llambert.evaluation.metrics import paired_difference
from llambert.recipe import ClassifierRecipe
from llambert.training.loop import FineTuning, History, Phase
from llambert.training.model import Encoder, load_encoder
from llambert.training.records import TrainingSet, select_silver

CEILING = 0.6
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
    umls_regions.require()
    prepare(arguments.threads)
    recipe = ClassifierRecipe(
        model=umls_regions.ENCODER,
        epochs=arguments.epochs,
        num_records=arguments.records,
        learning_rate=1e-4,
        held_out_share=0.0,
        seed=0,  # of the records: the same for every seed
    )
    print(f"{arguments.records} records, {recipe.epochs} epochs, batch size {recipe.batch_size}")
    return compare_curves(recipe) if arguments.curves else compare_with_trainer(recipe, arguments.seeds)


def compare_with_trainer(recipe: ClassifierRecipe, seeds: list[int]) -> int:
    """Times and accuracies of both sides; the exit status."""
    data = umls_regions.load()
    train = select_silver(data.silver, data.categories, recipe).train  # the same records for every seed
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    right: dict[str, list[np.ndarray]] = {name: [] for name in SIDES}
    for seed in seeds:
        for name, dtype in SIDES.items():
            seeded = recipe.model_copy(update={"seed": seed, "dtype": dtype or "float32"})
            encoder = load_encoder(seeded, data.categories)
            started = time.perf_counter()
            if dtype is None:
                train_theirs(encoder, train, seeded)
            else:
                train_ours(encoder, train, seeded)
            seconds[name].append(time.perf_counter() - started)
            right[name].append(predict(encoder, data.test[schema.TEXT].to_pylist()) == data.test_codes)
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


def compare_curves(recipe: ClassifierRecipe) -> int:
    """Smoothed losses bucketed, unbucketed, and unbucketed with another seed; the exit status."""
    data = umls_regions.load()
    train = select_silver(data.silver, data.categories, recipe).train  # the same records for all
    unbucketed = {"bucketing": False}
    cases = {"bucketed": {}, "unbucketed": unbucketed, "another seed": {**unbucketed, "seed": recipe.seed + 1}}
    curves, right = {}, {}
    for name, fields in cases.items():
        changed = recipe.model_copy(update=fields)
        # The same first weights of the head: what differs is the order of the records and the dropout.
        encoder = load_encoder(recipe, data.categories)
        started = time.perf_counter()
        history = train_ours(encoder, train, changed)
        losses = [step.loss for step in history.steps]
        curves[name] = np.convolve(losses, np.full(SMOOTHED_OVER, 1 / SMOOTHED_OVER), mode="valid")
        right[name] = predict(encoder, data.test[schema.TEXT].to_pylist()) == data.test_codes
        at = [f"{curves[name][step]:.3f}" for step in np.linspace(0, len(curves[name]) - 1, 5).astype(int)]
        seconds = time.perf_counter() - started
        print(
            f"{name:13} {seconds:6.0f} s, accuracy {right[name].mean():.2%}, smoothed loss {' '.join(at)}", flush=True
        )
    difference = {name: np.abs(curves[name] - curves["unbucketed"]).mean() for name in ("bucketed", "another seed")}
    print(
        f"mean difference of smoothed losses to unbucketed: {difference['bucketed']:.4f} bucketed, "
        f"{difference['another seed']:.4f} another seed"
    )
    return 0 if difference["bucketed"] <= 2 * difference["another seed"] else 1


def train_ours(encoder: Encoder, train: TrainingSet, recipe: ClassifierRecipe) -> History:
    """The loss curve."""
    nothing = train.take(np.arange(0))
    phases = [Phase("silver", train, nothing, recipe.epochs, recipe.learning_rate)]
    return FineTuning(encoder, phases, recipe, umls_regions.CATEGORIES).run()


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
