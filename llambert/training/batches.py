"""Which records each step learns from: a pure function of seed, epoch, lengths and batch size.

Every record comes once an epoch, whatever the number of workers: a batch is global, and each worker takes
its share of it. Shares may be uneven, or empty; the loss is summed and divided by the global batch size.
"""

from collections.abc import Sequence

import numpy as np
import torch

WINDOW_BATCHES = 50
"""Batches per sorting window. Large enough that a batch's texts are of nearly one length; the windows are
drawn anew each epoch, so that a batch's composition stays random within its length."""


def plan_epoch(lengths: np.ndarray, batch_size: int, seed: Sequence[int], bucketing: bool) -> list[np.ndarray]:
    """The batches of one epoch, as index arrays; all but one hold ``batch_size`` records.

    ``lengths``: tokens of each record. ``seed``: numbers that stand for this run and epoch. With
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
    """What worker ``rank`` computes of a global batch: every ``num_workers``-th record; may be empty."""
    return batch[rank::num_workers]


def micro_batches(share: np.ndarray, size: int | None) -> list[np.ndarray]:
    """A worker's share in pieces of at most ``size``; an empty share is one empty piece."""
    if size is None or len(share) <= size:
        return [share]
    return [share[start : start + size] for start in range(0, len(share), size)]


def collate(token_ids: Sequence[np.ndarray], padding_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Token ids padded to the longest: ``input_ids`` and ``attention_mask``, int64 of shape (records, tokens)."""
    lengths = np.array([len(ids) for ids in token_ids])
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    padded = np.full(mask.shape, padding_id, dtype=np.int64)
    padded[mask] = np.concatenate(token_ids)
    tensors = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
    if device.type == "cuda":
        return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}
    return tensors
