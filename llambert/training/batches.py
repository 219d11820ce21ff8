"""The records of each training step: a pure function of seed, epoch, lengths and batch size.

Every record is used once an epoch, regardless of the number of workers: a batch is global, and each worker takes its
share of it. Shares may be uneven or empty; the loss is summed and divided by the global batch size.
"""

from collections.abc import Sequence

import numpy as np

MIN_SPREAD_BATCHES = 10
MIN_SPREAD_SHARE = 0.02
"""How far records move from their places in the order of length: up to so many batches, or in a large set up to this
share of it. Two records of one batch meet again in the next epoch with a probability of at most about one in
``MIN_SPREAD_BATCHES``, in a set of any size."""


def plan_epoch(lengths: np.ndarray, batch_size: int, seed: Sequence[int], bucketing: bool) -> list[np.ndarray]:
    """The batches of one epoch, as index arrays; all but one hold ``batch_size`` records.

    ``lengths``: tokens of each record. ``seed``: numbers that identify this run and epoch. With ``bucketing``
    records are sorted by length, each moves a random distance, the order is cut, and the batches are shuffled: a
    batch's texts are random among those of similar length.
    """
    random = np.random.default_rng(list(seed))
    order = random.permutation(len(lengths))
    if not bucketing:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    order = order[np.argsort(lengths[order], kind="stable")]  # equal lengths in random order
    spread = max(MIN_SPREAD_BATCHES * batch_size, MIN_SPREAD_SHARE * len(order))
    order = order[np.argsort(np.arange(len(order)) + random.uniform(0, spread, len(order)))]
    sizes = np.full(-(-len(order) // batch_size), batch_size)
    # Each record of a short batch weighs more; it is a random batch, so that these are not always the longest texts.
    sizes[random.integers(len(sizes))] -= sizes.sum() - len(order)
    batches = np.split(order, np.cumsum(sizes)[:-1])
    return [batches[position] for position in random.permutation(len(batches))]


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
