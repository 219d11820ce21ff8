"""The learning curve: classifiers trained on subsets of increasing size of the silver records."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
import transformers

from llambert.execution.ray_executor import connect
from llambert.recipe import ClassifierRecipe
from llambert.run import Run
from llambert.stages.finetune.selection import silver_rows
from llambert.training.encoder import load_encoder
from llambert.training.loop import FineTuning, Phase
from llambert.training.training_set import TrainingSet, select_silver

_SHARES = (0.25, 0.5, 1.0)
_MIN_LABELS = 8
# With two, six pairs of trainings tell how much one training differs from another.
_NUM_REPEATS = 2

Wrong = list[list[list[bool]]]
"""Repeat, half, record: whether a classifier that was not trained on the record was wrong about it."""


@dataclass(frozen=True)
class CrossValidation:
    """What classifiers say of silver records that they were not trained on."""

    wrong: dict[int, Wrong] = field(default_factory=dict)
    """By the number of training labels, ascending."""
    scores: list[list[float]] = field(default_factory=list)
    """Half, record: the score of the label, by the first repeat of the largest number."""


def measure_learning_curve(run: Run) -> CrossValidation:
    """For every silver record, which classifiers not trained on it were wrong, by their number of training labels.

    Two-fold cross-validation: each half of the silver records that the regime learns from (in regime ``combined``
    before it learns from gold ones) is classified by models trained on a quarter, a half and all of the other, each
    twice: with other random seeds and, where the other half has enough, on other records. Wrong means other than the
    silver label: no gold is read. Empty if there are too few records.
    """
    recipe = run.recipe.classifier
    connect()
    train = ray.remote(num_cpus=recipe.cpus_per_worker, num_gpus=1 if recipe.use_gpu else 0)(_train_and_evaluate)
    return ray.get(train.options(name="learning-curve").remote(run))


def _train_and_evaluate(run: Run) -> CrossValidation:
    changes: dict[str, Any] = {"held_out_share": 0.0, "early_stop_patience": None, "soup_members": 1}
    changes |= {"num_records": None, "mislabel_share": 0.0}
    recipe = run.recipe.classifier.model_copy(update=changes)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(max(1, int(recipe.cpus_per_worker)))
    categories = run.task.category_names
    records = select_silver(silver_rows(run)[0], categories, recipe).train
    num_half = len(records) // 2
    sizes = [round(share * num_half) for share in _SHARES]
    if sizes[0] < _MIN_LABELS:
        return CrossValidation()
    # The records are in random order: every second one is a random half, and its first n are a random subset.
    halves = [records.take(np.arange(half, 2 * num_half, 2)) for half in (0, 1)]
    # Trainings of equal seed would start from one head, and be wrong alike.
    seeds = itertools.count(recipe.seed)

    def judge(size: int, repeat: int, half: int) -> tuple[list[bool], list[float]]:
        subset = (repeat * size + np.arange(size)) % num_half
        seeded = recipe.model_copy(update={"seed": next(seeds)})
        return _judge(run, seeded, halves[1 - half].take(subset), halves[half])

    judged = {
        size: [[judge(size, repeat, half) for half in (0, 1)] for repeat in range(_NUM_REPEATS)] for size in sizes
    }
    wrong = {size: [[of_half for of_half, _ in repeat] for repeat in repeats] for size, repeats in judged.items()}
    return CrossValidation(wrong, [scores for _, scores in judged[sizes[-1]][0]])


def _judge(
    run: Run, recipe: ClassifierRecipe, train: TrainingSet, held_out: TrainingSet
) -> tuple[list[bool], list[float]]:
    """For each held-out record, whether a classifier trained on ``train`` is wrong, and its score."""
    device = torch.device("cuda" if recipe.use_gpu else "cpu")
    phase = Phase("silver", train, held_out.take(np.arange(0)), recipe.epochs, recipe.learning_rate)
    categories = run.task.category_names
    tuning = FineTuning(load_encoder(recipe, categories), [phase], recipe, categories, device)
    tuning.run()
    probabilities = tuning.predict(tuning.encoder.model, tuning.tokenized(held_out))
    is_wrong = probabilities.argmax(axis=1) != held_out.labels
    return is_wrong.tolist(), probabilities.max(axis=1).astype(float).tolist()
