"""The records of each training step: a pure function of seed, epoch, lengths and batch size.

Every record is used once an epoch, regardless of the number of workers: a batch is global, and each worker takes its
share of it. Shares may be uneven or empty; the loss is summed and divided by the global batch size.
"""

from collections.abc import Sequence

import numpy as np

WINDOW_BATCHES = 50
"""Batches per sorting window. Large enough that a batch's texts have nearly equal lengths; windows are drawn
again each epoch, so that a batch's texts are random among those of similar length."""


def plan_epoch(lengths: np.ndarray, batch_size: int, seed: Sequence[int], bucketing: bool) -> list[np.ndarray]:
    """The batches of one epoch, as index arrays; all but one hold ``batch_size`` records.

    ``lengths``: tokens of each record. ``seed``: numbers that identify this run and epoch. With
    ``bucketing`` records are shuffled, sorted by length inside windows of ``WINDOW_BATCHES`` batches, cut,
    and the batches shuffled.
    """
    random = np.random.default_rng(list(seed))
    order = random.permutation(len(lengths))
    if bucketing:
        window = WINDOW_BATCHES * batch_size
        runs = [order[start : start + window] for start in range(0, len(order), window)]
        order = np.concatenate([run[np.argsort(lengths[run], kind="stable")] for run in runs])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[position] for position in random.permutation(len(batches))] if bucketing else batches


def worker_share(batch: np.ndarray, rank: int, num_workers: int) -> np.ndarray:
    """The part of a global batch that worker ``rank`` computes: every ``num_workers``-th record; may be empty."""
    return batch[rank::num_workers]


def micro_batches(share: np.ndarray, size: int | None, groups: np.ndarray) -> list[np.ndarray]:
    """A worker's share in pieces of at most ``size`` records of one group; an empty share is one empty piece.

    ``groups``: the group number of each record of the training set.
    """
    if len(share) == 0:
        return [share]
    pieces = [share[groups[share] == group] for group in dict.fromkeys(groups[share].tolist())]
    return [
        piece[start : start + (size or len(piece))]
        for piece in pieces
        for start in range(0, len(piece), size or len(piece))
    ]
