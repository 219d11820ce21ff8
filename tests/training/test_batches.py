import numpy as np
import pytest

from llambert.training.batches import micro_batches, plan_epoch, worker_share

LENGTHS = np.random.default_rng(0).integers(3, 200, size=1003)


@pytest.mark.parametrize("bucketing", [True, False])
def test_every_record_comes_once_an_epoch_in_batches_of_the_global_size(bucketing):
    batches = plan_epoch(LENGTHS, 16, (0, 1), bucketing)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert sorted(map(len, batches)) == [11] + [16] * 62


def test_a_plan_is_the_same_whenever_it_is_made_and_another_in_every_epoch():
    first, again, next_epoch = (np.concatenate(plan_epoch(LENGTHS, 16, (0, e), True)) for e in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_epoch)


def test_bucketing_pads_far_less_and_still_mixes_the_order_of_lengths():
    def padding(bucketing):
        batches = plan_epoch(LENGTHS, 16, (0, 1), bucketing)
        return sum(len(b) * LENGTHS[b].max() for b in batches) / LENGTHS.sum() - 1

    assert padding(True) < 0.15 < 0.5 < padding(False)
    means = [LENGTHS[batch].mean() for batch in plan_epoch(LENGTHS, 16, (0, 1), True)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3  # batches do not come from short to long


@pytest.mark.parametrize("num_records", [1, 15, 16, 17, 200, 800, 3_200, 50_000])
@pytest.mark.parametrize("batch_size", [16, 32])
def test_records_of_one_bucketed_batch_rarely_meet_again_in_the_next_epoch(num_records, batch_size):
    """Also in a set so small that sorting the whole of it would make nearly the same batches each epoch."""
    lengths = np.random.default_rng(0).lognormal(4, 0.6, num_records).astype(int) + 3
    batch_of = np.empty((2, num_records), dtype=int)
    for epoch in (0, 1):
        for number, batch in enumerate(plan_epoch(lengths, batch_size, (0, epoch), True)):
            batch_of[epoch, batch] = number
    together = [np.unique(numbers, return_counts=True, axis=1)[1] for numbers in (batch_of, batch_of[:1])]
    pairs_again, pairs = ((counts * (counts - 1)).sum() for counts in together)
    by_chance = (batch_size - 1) / max(num_records - 1, 1)
    assert pairs_again <= pairs * max(0.12, 1.2 * by_chance)


def test_the_short_batch_of_an_epoch_is_not_always_that_of_the_longest_texts():
    short = [next(b for b in plan_epoch(LENGTHS, 16, (0, e), True) if len(b) < 16) for e in range(20)]
    assert np.mean([LENGTHS[batch].mean() for batch in short]) < 1.3 * LENGTHS.mean()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
def test_workers_shares_make_up_the_batch_even_where_some_get_nothing(num_workers):
    for size in (16, 11, 3, 1):
        batch = np.arange(size) + 5
        shares = [worker_share(batch, rank, num_workers) for rank in range(num_workers)]
        assert sorted(np.concatenate(shares).tolist()) == batch.tolist()
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_micro_batches_hold_at_most_their_size_and_an_empty_share_is_one_piece():
    one = np.zeros(10, dtype=np.int64)
    assert [len(piece) for piece in micro_batches(np.arange(10), 4, one)] == [4, 4, 2]
    assert [len(piece) for piece in micro_batches(np.arange(10), None, one)] == [10]
    assert [len(piece) for piece in micro_batches(np.arange(0), 4, one)] == [0]


def test_micro_batches_hold_records_of_one_group():
    groups = np.array([7, 9, 7, 7, 9, 8])
    pieces = micro_batches(np.array([5, 0, 1, 2, 4, 3]), 2, groups)
    assert [piece.tolist() for piece in pieces] == [[5], [0, 2], [3], [1, 4]]
