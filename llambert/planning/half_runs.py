"""Learning curve: a few classifiers, each trained as the recipe says on fewer of its silver records than the next."""

from typing import Any

import numpy as np
import ray
import torch
import transformers

from llambert.execution.ray_executor import connect
from llambert.run import Run
from llambert.stages.finetune.selection import silver_rows
from llambert.training.encoder import load_encoder
from llambert.training.loop import FineTuning, Phase
from llambert.training.training_set import TrainingSet, select_silver

_SHARES = (0.25, 0.5, 1.0)
_MIN_LABELS = 8


def learning_curve(run: Run) -> dict[int, list[bool]]:
    """Number of labels learned from -> of every silver record, whether a classifier that had not seen it was wrong.

    The silver records of the splits that the regime learns from are halved; each half judges the classifiers that
    learned from a quarter, a half and all of the other. Wrong means unlike the silver label: no gold is read. Empty
    where there are too few records.
    """
    recipe = run.recipe.classifier
    connect()
    train = ray.remote(num_cpus=recipe.cpus_per_worker, num_gpus=1 if recipe.use_gpu else 0)(_train_and_evaluate)
    return ray.get(train.options(name="learning-curve").remote(run))


def _train_and_evaluate(run: Run) -> dict[int, list[bool]]:
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
        return {}
    # In sampling order: every second record is a random half, and a half's first n are a random subset of it.
    halves = [records.take(np.arange(half, 2 * num_half, 2)) for half in (0, 1)]
    return {
        size: [
            is_wrong
            for learned, judged in (halves, halves[::-1])
            for is_wrong in _errors(run, recipe, learned.take(np.arange(size)), judged)
        ]
        for size in sizes
    }


def _errors(run: Run, recipe: Any, learned: TrainingSet, judged: TrainingSet) -> list[bool]:
    device = torch.device("cuda" if recipe.use_gpu else "cpu")
    nothing = judged.take(np.arange(0))
    phase = Phase("silver", learned, nothing, recipe.epochs, recipe.learning_rate)
    categories = run.task.category_names
    tuning = FineTuning(load_encoder(recipe, categories), [phase], recipe, categories, device)
    tuning.run()
    probabilities = tuning.predict(tuning.encoder.model, tuning.tokenized(judged))
    return (probabilities.argmax(axis=1) != judged.labels).tolist()
