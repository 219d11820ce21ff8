"""The labelled records of a training phase, and those held out to evaluate it."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.sampling import Exclusion, Purpose, sampling_hashes
from llambert.errors import InputError
from llambert.recipe import ClassifierRecipe
from llambert.training.losses import class_weights, scale_to_mean_one, smooth_labels


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """``n`` labelled records in the order of their sampling hash, so that every prefix is a uniform sample.

    ``labels``: category indices, int64 (n,). ``targets``: float32 (n, categories), rows summing to 1, the
    loss's target distributions. ``weights``: float32 (n,), of mean 1.
    """

    texts: list[str]
    labels: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Self:
        """These records only; weights keep a mean of 1."""
        texts = [self.texts[row] for row in rows]
        return type(self)(texts, self.labels[rows], self.targets[rows], scale_to_mean_one(self.weights[rows]))


@dataclass(frozen=True)
class Selection:
    """The records of one phase. ``num_left_out``: number of the ``num_in`` records that are not used, by reason."""

    train: TrainingSet
    held_out: TrainingSet
    num_in: int
    num_left_out: dict[str, int]


def select_silver(table: pa.Table, categories: list[str], recipe: ClassifierRecipe) -> Selection:
    """Training records of a ``silver`` table; ``InputError`` if training on it is impossible.

    Records below ``min_confidence`` are left out, ``held_out_share`` is held out, ``num_records`` of the rest are
    trained on (a record that is held out is so at every ``num_records``). With the annotator's seed these are the
    first of the sample, as if fewer had been annotated.
    """
    if table.num_rows == 0:
        raise InputError("the silver table is empty: no record has a usable answer; see the rejects and their reasons")
    num_in = table.num_rows
    if recipe.min_confidence > 0:
        _require(table, schema.CONFIDENCE, "classifier.min_confidence")
        table = table.filter(pc.greater_equal(table[schema.CONFIDENCE], recipe.min_confidence))
        if table.num_rows == 0:
            raise InputError(f"classifier.min_confidence: no silver record reaches {recipe.min_confidence}")
    table = _in_sampling_order(table, recipe.seed, Purpose.ANNOTATION)
    labels = _category_indices(table[schema.LABEL], categories, "silver")
    weights = np.ones(len(labels))
    if recipe.confidence_weights:
        _require(table, schema.CONFIDENCE, "classifier.confidence_weights")
        weights = table[schema.CONFIDENCE].to_numpy()
    targets = _one_hot(labels, len(categories))
    if recipe.loss == "soft":
        _require(table, schema.LABEL_PROBABILITIES, "classifier.loss: soft")
        probabilities = schema.decode_probabilities(table[schema.LABEL_PROBABILITIES], categories)
        targets = (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)
    records = TrainingSet(table[schema.TEXT].to_pylist(), labels, targets, weights)
    return _select(records, recipe, recipe.num_records, num_in, {Exclusion.LOW_CONFIDENCE: num_in - table.num_rows})


def select_gold(table: pa.Table, categories: list[str], recipe: ClassifierRecipe, num: int | None) -> Selection:
    """Training records of corpus rows with a gold label; the first ``num`` by sampling hash, or all.

    The hash differs from that of the annotation sample: the two selections are independent.
    """
    if table.num_rows == 0:
        raise InputError(
            f"classifier.regime: {recipe.regime} needs gold labels, and no record of split 'train' has one; "
            "see corpus.columns.gold_label and corpus.columns.split"
        )
    table = _in_sampling_order(table, recipe.seed, Purpose.GOLD_TRAINING)
    labels = _category_indices(table[schema.GOLD_LABEL], categories, "gold")
    targets = _one_hot(labels, len(categories))
    records = TrainingSet(table[schema.TEXT].to_pylist(), labels, targets, np.ones(len(labels)))
    return _select(records, recipe, num, table.num_rows, {})


def _select(
    records: TrainingSet, recipe: ClassifierRecipe, num: int | None, num_in: int, num_left_out: dict[str, int]
) -> Selection:
    num_held_out = round(recipe.held_out_share * len(records))
    if recipe.early_stop_patience is not None and num_held_out == 0:
        raise InputError(
            "classifier.early_stop_patience: no records are held out to decide when to stop; raise held_out_share"
        )
    # By a random permutation, not by position: the held-out records are then independent of a prefix (num_records)
    # and the same for every num_records.
    random = np.random.default_rng([recipe.seed, 1])
    held_out = np.zeros(len(records), dtype=bool)
    held_out[random.permutation(len(records))[:num_held_out]] = True
    rows = np.flatnonzero(~held_out)
    chosen = rows[: num or len(rows)]
    train = _apply_label_settings(records.take(chosen), recipe)
    if len(present := np.unique(train.labels)) < 2:
        raise InputError(
            f"all {len(train)} training records have one label (category {present.tolist()} of the task): there is "
            "nothing to learn; annotate more records, or check whether the annotator distinguishes the categories"
        )
    num_left_out = {**num_left_out, Exclusion.BEYOND_NUM_RECORDS: len(rows) - len(chosen)}
    num_left_out = {reason: num for reason, num in num_left_out.items() if num}
    return Selection(train, records.take(np.flatnonzero(held_out)), num_in, num_left_out)


def _apply_label_settings(train: TrainingSet, recipe: ClassifierRecipe) -> TrainingSet:
    """Apply label noise, label smoothing and class weights; held-out records stay unchanged."""
    labels, targets = inject_label_noise(train, recipe.mislabel_share, recipe.seed)
    targets = smooth_labels(targets, recipe.label_smoothing)
    weights = train.weights * class_weights(targets) if recipe.class_weights else train.weights
    return TrainingSet(train.texts, labels, targets.astype(np.float32), scale_to_mean_one(weights).astype(np.float32))


def inject_label_noise(train: TrainingSet, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and targets with ``round(share * n)`` records changed to another category, chosen uniformly.

    Nested: the changes made for one share are also made for every larger one.
    """
    labels, targets = train.labels.copy(), train.targets.copy()
    num_categories = targets.shape[1]
    random = np.random.default_rng([seed, 2])
    order = random.permutation(len(train))
    shifts = random.integers(1, num_categories, size=len(train))
    rows = order[: round(share * len(train))]
    labels[rows] = (labels[rows] + shifts[rows]) % num_categories
    targets[rows] = _one_hot(labels[rows], num_categories)
    return labels, targets


def _in_sampling_order(table: pa.Table, seed: int, purpose: Purpose) -> pa.Table:
    hashed = table.append_column("hash", pa.array(sampling_hashes(table[schema.RECORD_ID], seed, purpose)))
    return hashed.sort_by([("hash", "ascending"), (schema.RECORD_ID, "ascending")]).drop_columns("hash")


def _category_indices(labels: pa.ChunkedArray, categories: list[str], kind: str) -> np.ndarray:
    codes = pc.index_in(labels, pa.array(categories, pa.string()))
    if codes.null_count:
        unknown = sorted(set(labels.filter(pc.is_null(codes)).to_pylist()), key=str)[:3]
        raise InputError(
            f"{codes.null_count} {kind} labels are no category of the task, for example {unknown}; "
            f"its categories are {', '.join(categories)}"
        )
    return codes.to_numpy().astype(np.int64)


def _one_hot(labels: np.ndarray, num_categories: int) -> np.ndarray:
    return np.eye(num_categories, dtype=np.float32)[labels]


def _require(table: pa.Table, column: str, setting: str) -> None:
    if missing := table[column].null_count:
        raise InputError(
            f"{setting} needs {column} on every silver record; {missing} of {table.num_rows} have none "
            "(annotator.mode: score gives it)"
        )
