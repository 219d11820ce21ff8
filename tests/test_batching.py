"""Batches: their limits, and packs that keep all cores busy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambert.batching import MAX_PADDING_WASTE, packed, padded, plan_batches, plan_packs


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


def test_padding_is_masked_and_equal_lengths_need_no_mask(ids):
    batch = padded(np.array([4, 2]), ids, 1)
    assert batch.arguments["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch.arguments["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.num_positions == 6
    assert padded(np.array([4]), ids[:1], 1).arguments["attention_mask"] is None


def test_a_pack_counts_positions_anew_for_each_text(ids):
    batch = packed(np.array([4, 2]), ids, 2)
    assert batch.arguments["input_ids"].tolist() == [[5, 6, 7, 8]]
    assert batch.arguments["position_ids"].tolist() == [[2, 3, 4, 2]]
    assert batch.arguments["text_lengths"] == [3, 1]
    assert batch.num_positions == 4
