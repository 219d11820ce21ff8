"""Token ids as an encoder takes them: batches padded to their longest text, or texts packed end to end.

Padded batches are for many texts, which sort into batches of one length each. Packs are for few: each pass of the
model has a fixed cost, mostly reading the weights (2.5 ms for MiniLM on a core, as much as a text of 24 tokens), which
a separate batch for each length would pay every time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")

TEXT_RUNS = "text_runs"
"""The one input that stays on the CPU: it says which kernels are started."""

MAX_PADDING_WASTE = 0.03
"""Share of a batch's token positions that may be padding; holds for every batch, so for every run."""


@dataclass(frozen=True)
class Batch:
    """Rows of a window, the token ids of each, and the model's keyword arguments made of them."""

    rows: np.ndarray
    ids: Sequence[np.ndarray]
    inputs: dict[str, Any]

    @property
    def num_positions(self) -> int:
        """Token positions that the model computes, padding included."""
        return int(self.inputs["input_ids"].numel())


def pad(ids: Sequence[np.ndarray], padding_id: int, side: str = "right") -> tuple[np.ndarray, np.ndarray]:
    """``ids`` padded to the longest on one side, int64 of shape (texts, longest), and the mask of their tokens."""
    lengths = np.array([len(row) for row in ids])
    positions = np.arange(lengths.max())[None, :]
    mask = positions < lengths[:, None] if side == "right" else positions >= lengths.max() - lengths[:, None]
    padded = np.full(mask.shape, padding_id, dtype=np.int64)
    padded[mask] = np.concatenate(ids)
    return padded, mask


def pack_batch(rows: np.ndarray, ids: Sequence[np.ndarray], padding_index: int | None) -> Batch:
    """For ``packing.enable_packing``: ``input_ids`` and ``position_ids``, int64 (1, tokens); ``text_starts``, int64
    (texts,); and ``text_runs``, int64 (runs, 2): numbers of neighbours of one length, and that length.

    Positions restart with each text: 0, 1, 2, …; with a ``padding_index`` they count its
    tokens of other ids from ``padding_index + 1`` on, and a token of that id has the index itself for a position.
    """
    if padding_index is None:
        positions = [np.arange(len(row)) for row in ids]
    else:
        counted = [row != padding_index for row in ids]
        positions = [np.cumsum(is_counted) * is_counted + padding_index for is_counted in counted]
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    inputs = {
        "input_ids": torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
        "position_ids": torch.from_numpy(np.concatenate(positions).astype(np.int64))[None],
        "text_starts": torch.from_numpy(np.cumsum([0, *lengths[:-1]])),
        TEXT_RUNS: torch.from_numpy(text_runs(lengths)),
    }
    return Batch(rows, ids, inputs)


def text_runs(lengths: np.ndarray) -> np.ndarray:
    """Runs of equal neighbours, int64 (runs, 2): how many, and which length."""
    starts = np.flatnonzero(np.diff(lengths, prepend=-1))
    return np.stack([np.diff(starts, append=len(lengths)), lengths[starts]], axis=1)


def group_by_size(items: Iterable[tuple[T, int, int]], max_records: int, max_size: int) -> Iterator[list[T]]:
    """Runs of consecutive items of at most ``max_records`` records and, single items aside, ``max_size``.

    ``items``: each with its number of records and its size.
    """
    group: list[T] = []
    num_records = group_size = 0
    for item, records, size in items:
        if group and (num_records + records > max_records or group_size + size > max_size):
            yield group
            group, num_records, group_size = [], 0, 0
        group.append(item)
        num_records += records
        group_size += size
    if group:
        yield group


def plan_batches(
    rows: np.ndarray, lengths: np.ndarray, max_tokens: int, max_waste: float = MAX_PADDING_WASTE
) -> list[np.ndarray]:
    """Cut ``rows`` into batches, longest first.

    A batch's padded size (its number of rows times its longest) stays within ``max_tokens``, single rows
    aside, and the share of it that is padding within ``max_waste``. ``lengths`` is by row.
    """
    ordered = rows[np.argsort(-lengths[rows], kind="stable")]
    batches: list[np.ndarray] = []
    start, longest, real = 0, 0, 0
    for position, row in enumerate(ordered):
        length = int(lengths[row])
        padded = longest * (position - start + 1)
        if position > start and (padded > max_tokens or padded - real - length > max_waste * padded):
            batches.append(ordered[start:position])
            start = position
        if position == start:
            longest, real = length, 0
        real += length
    if len(ordered):
        batches.append(ordered[start:])
    return batches


def plan_sorted_packs(rows: np.ndarray, lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """``rows`` in packs for a GPU, longest first: about equally full, each of few lengths.

    Each length of a pack costs a GPU an attention kernel a layer, all else is one kernel for the whole pack. Packs are
    within ``max_tokens``, single rows aside. ``lengths`` is by row.
    """
    if not len(rows):
        return []
    ordered = rows[np.argsort(-lengths[rows], kind="stable")]
    ends = np.cumsum(lengths[ordered])
    # A pack is closed before the text that would exceed its share: only the last is short by more than a text.
    num_packs = -(-int(ends[-1]) // max_tokens)
    share = min(max_tokens, -(-int(ends[-1]) // num_packs) + int(lengths[ordered[0]]))
    packs, start, before = [], 0, 0
    while start < len(ordered):
        end = max(start + 1, int(np.searchsorted(ends, before + share, side="right")))
        packs.append(ordered[start:end])
        start, before = end, int(ends[end - 1])
    return packs


def plan_packs(rows: np.ndarray, lengths: np.ndarray, max_tokens: int, num_cores: int) -> list[np.ndarray]:
    """``rows`` in packs of about equal numbers of tokens, so that each of ``num_cores`` gets equal work.

    Their mean size is within ``max_tokens``; a single pack exceeds it by its shortest text at most.
    ``lengths`` is by row.
    """
    num_tokens = int(lengths[rows].sum())
    num_packs = min(len(rows), num_cores * -(-num_tokens // (max_tokens * num_cores)))
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    sizes = [0] * num_packs
    for row in rows[np.argsort(-lengths[rows], kind="stable")]:
        lightest = sizes.index(min(sizes))
        packs[lightest].append(int(row))
        sizes[lightest] += int(lengths[row])
    return [np.array(pack, dtype=np.int64) for pack in packs]
