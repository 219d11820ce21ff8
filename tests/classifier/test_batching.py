"""Batches: their limits, and packs that keep all cores busy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambert.classifier.batching import (
    MAX_PADDING_WASTE,
    pack_batch,
    pad,
    plan_batches,
    plan_packs,
    plan_sorted_packs,
    text_runs,
)
from tests.benchmarks.bench_batches import count, imdb_lengths, short_lengths


@given(st.lists(st.integers(1, 600), max_size=300))
def test_batches_hold_every_row_once_within_the_token_budget_and_the_padding_limit(lengths):
    lengths = np.array(lengths, dtype=np.int64)
    rows = np.flatnonzero(lengths % 7 != 0)
    batches = plan_batches(rows, lengths, max_tokens=2048)
    assert sorted(np.concatenate([np.zeros(0, np.int64), *batches])) == rows.tolist()
    for batch in batches:
        positions = len(batch) * lengths[batch].max()
        assert positions <= 2048 or len(batch) == 1
        assert positions - lengths[batch].sum() <= MAX_PADDING_WASTE * positions


@given(st.lists(st.integers(1, 512), max_size=100), st.integers(1, 4))
def test_packs_hold_every_row_once_and_are_about_as_long_as_each_other(lengths, num_cores):
    lengths = np.array(lengths, dtype=np.int64)
    rows = np.arange(len(lengths))
    packs = plan_packs(rows, lengths, 2048, num_cores)
    assert sorted(np.concatenate([np.zeros(0, np.int64), *packs])) == rows.tolist()
    assert len(packs) == len(rows) or len(packs) % num_cores == 0
    for pack in packs:
        without_its_shortest = lengths[pack].sum() - lengths[pack].min()
        assert all(without_its_shortest <= lengths[other].sum() for other in packs)
        assert without_its_shortest <= 2048


def test_a_row_longer_than_the_budget_is_a_batch_of_its_own():
    assert [len(batch) for batch in plan_batches(np.arange(2), np.array([5000, 9]), 2048)] == [1, 1]
    assert plan_batches(np.zeros(0, np.int64), np.array([5000, 9]), 2048) == []


@pytest.fixture
def ids():
    return [np.array([5, 6, 7], np.int32), np.array([8], np.int32)]


def test_the_mask_is_of_the_texts_lengths_whatever_their_tokens_are(ids):
    ids = [*ids, np.array([1, 1], np.int32)]
    padded, mask = pad(ids, 1)
    assert padded.tolist() == [[5, 6, 7], [8, 1, 1], [1, 1, 1]]
    assert mask.astype(int).tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    padded, mask = pad(ids, 1, "left")
    assert padded.tolist() == [[5, 6, 7], [1, 1, 8], [1, 1, 1]]
    assert mask.astype(int).tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]


def test_a_pack_counts_positions_anew_for_each_text(ids):
    batch = pack_batch(np.array([4, 2]), ids, None)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, 8]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 0]]
    assert batch.inputs["text_starts"].tolist() == [0, 3]
    assert batch.inputs["text_runs"].tolist() == [[1, 3], [1, 1]]
    assert batch.num_positions == 4


def test_a_pack_leaves_padding_tokens_of_a_text_out_of_the_count_as_such_a_model_does_alone():
    batch = pack_batch(np.array([0, 1]), [np.array([5, 1, 6], np.int32), np.array([7, 8], np.int32)], 1)
    assert batch.inputs["position_ids"].tolist() == [[2, 1, 3, 2, 3]]


@given(st.lists(st.integers(1, 512), max_size=300))
def test_sorted_packs_hold_every_row_once_longest_first_within_the_budget(lengths):
    lengths = np.array(lengths, dtype=np.int64)
    rows = np.flatnonzero(lengths % 7 != 0)
    packs = plan_sorted_packs(rows, lengths, 600)
    found = np.concatenate([np.zeros(0, np.int64), *packs])
    assert sorted(found) == rows.tolist()
    assert (np.diff(lengths[found]) <= 0).all()
    assert all(lengths[pack].sum() <= 600 for pack in packs)


def test_a_pack_names_its_runs_of_one_length():
    assert text_runs(np.array([9, 9, 4, 9])).tolist() == [[2, 9], [1, 4], [1, 9]]
    assert text_runs(np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize(("lengths", "least_fill"), [(imdb_lengths(25_000), 0.9), (short_lengths(25_000), 0.75)])
def test_a_gpus_batches_are_full_and_need_no_mask(lengths, least_fill):
    """Before, 87 % of the batches of IMDb's lengths had a mask, and short texts filled 7 % of a batch."""
    packed, padded, before = (count(lengths, plan) for plan in ("packed", "padded", "before"))
    assert packed.masked_share == packed.padding_share == 0
    assert packed.fill > least_fill
    assert packed.num_runs < 30  # an attention kernel each
    # Families that cannot be packed: fuller than before, and no more than a sixth of it padding.
    assert padded.fill > 1.5 * before.fill
    assert padded.padding_share < 0.15


def test_imdbs_lengths_fill_four_fifths_of_padded_batches_too():
    assert count(imdb_lengths(25_000), "padded").fill > 0.8
