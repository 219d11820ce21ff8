"""Batches: their limits, and packs that keep all cores busy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambert.classifier.batching import MAX_PADDING_WASTE, pack_batch, pad, plan_batches, plan_packs


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
    assert batch.inputs["text_lengths"] == [3, 1]
    assert batch.num_positions == 4


def test_a_pack_leaves_padding_tokens_of_a_text_out_of_the_count_as_such_a_model_does_alone():
    batch = pack_batch(np.array([0, 1]), [np.array([5, 1, 6], np.int32), np.array([7, 8], np.int32)], 1)
    assert batch.inputs["position_ids"].tolist() == [[2, 1, 3, 2, 3]]
