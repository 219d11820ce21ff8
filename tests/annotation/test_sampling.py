"""The sample: exact, nested, and the same however the ids are cut into parts."""

import hashlib
import itertools
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llambert.annotation.sampling import IdSource, Purpose, Selection, sampling_hashes, select, select_stratified

IDS = [f"record-{i}" for i in range(2_000)]


def source(ids: list[str], num_parts: int = 1) -> IdSource:
    bounds = np.linspace(0, len(ids), num_parts + 1).astype(int)
    parts = [pa.chunked_array([pa.array(ids[a:b], pa.string())]) for a, b in itertools.pairwise(bounds)]
    return IdSource(lambda: iter(parts), len(ids))


def selected(ids: list[str], num: int, seed: int = 0, duplicates: list[str] = (), num_parts: int = 3) -> list[str]:
    return select(source(ids, num_parts), source(list(duplicates), 2), num, seed).record_ids.to_pylist()


def test_hash_is_keyed_blake2b_of_the_id():
    expected = int.from_bytes(hashlib.blake2b(b"tt0111161", key=b"7", digest_size=8).digest(), "big")
    assert sampling_hashes(["tt0111161"], 7).tolist() == [expected]


def test_the_annotation_sample_of_a_seed_is_what_it_always_was():
    # Another hash would find none of the answers that were paid for.
    assert sampling_hashes(["tt0111161", "é"], 0).tolist() == [8978761938928957710, 10627565055475572238]
    assert selected(IDS, 5) == ["record-1744", "record-1953", "record-1815", "record-585", "record-1961"]


@pytest.mark.parametrize("purpose", [one for one in Purpose if one is not Purpose.ANNOTATION])
def test_what_another_purpose_draws_says_nothing_about_what_is_annotated(purpose):
    for seed in range(5):
        annotated = set(selected(IDS, 1_200, seed))
        drawn = Selection.smallest(pa.array(IDS), 100, seed, purpose).record_ids.to_pylist()
        assert abs(len(annotated & set(drawn)) - 60) < 4 * np.sqrt(100 * 0.6 * 0.4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2_100), st.integers(1, 7), st.integers(0, 99), st.integers(0, 3))
def test_sample_is_exact_and_does_not_depend_on_order_or_parts(num, num_parts, order, seed):
    shuffled = IDS.copy()
    random.Random(order).shuffle(shuffled)
    by_hash = [IDS[i] for i in np.argsort(sampling_hashes(IDS, seed))]
    assert selected(shuffled, num, seed, num_parts=num_parts) == by_hash[:num]


def test_samples_are_nested_over_their_size():
    large = selected(IDS, 500)
    for num in (0, 1, 17, 499):
        assert selected(IDS, num) == large[:num]


def test_another_seed_draws_another_sample():
    overlap = set(selected(IDS, 500, seed=1)) & set(selected(IDS, 500, seed=2))
    assert 80 < len(overlap) < 170  # 125 expected of independent draws


@pytest.mark.parametrize("num_duplicates", [1, 300, 1_900])
def test_duplicates_are_never_drawn_and_the_sample_stays_exact(num_duplicates):
    duplicates = random.Random(0).sample(IDS, num_duplicates)
    eligible = [i for i in IDS if i not in set(duplicates)]
    for num in (1, 90, 100, 2_000):
        assert selected(IDS, num, duplicates=duplicates) == selected(eligible, num)


def test_sample_is_exact_where_duplicates_crowd_the_smallest_hashes():
    # The first guess of how many candidates will do is too small here: the search must widen.
    by_hash = selected(IDS, 2_000)
    assert selected(IDS, 50, duplicates=by_hash[:900]) == by_hash[900:950]


def test_merging_parts_gives_the_selection_of_the_whole():
    whole = Selection.smallest(pa.array(IDS), 100, 5)
    left, right = (Selection.smallest(pa.array(half), 100, 5) for half in (IDS[:300], IDS[300:]))
    assert right.merge(left, 100).record_ids.equals(whole.record_ids)
    assert len(Selection.empty().merge(left, 100)) == 100


def test_selection_is_uniform():
    drawn = np.array([int(i.split("-")[1]) for i in selected(IDS, 1_000)])
    assert abs(drawn.mean() - 999.5) < 4 * 577 / np.sqrt(1_000)
    assert abs((drawn < 500).sum() - 250) < 60


def stratified(ids: dict[str, str], num: int) -> list[str]:
    """``num`` of these records; id -> stratum."""
    columns = pa.chunked_array([list(ids)]), pa.chunked_array([list(ids.values())])
    return select_stratified(lambda: iter([columns]), pa.array([], pa.string()), num, 0).record_ids.to_pylist()


@pytest.mark.parametrize("num_new", [1, 200, 2_000])
def test_new_records_displace_the_last_of_a_sample_and_no_others(num_new):
    new = [f"new-{i}" for i in range(num_new)]
    before, after = selected(IDS, 300), selected([*new, *IDS], 300)
    kept = [name for name in after if name in before]
    assert kept == before[: len(kept)]
    assert set(after) - set(before) <= set(new)
    removed = selected(IDS[::2], 300)  # of files that go
    assert [name for name in before if name in removed] == removed[: len(set(before) & set(removed))]


def test_a_stratified_sample_of_a_grown_corpus_takes_each_stratum_in_the_same_order():
    old = {name: "fr" if i % 4 else "us" for i, name in enumerate(IDS)}
    new = {f"new-{i}": ["us", "it"][i % 2] for i in range(400)}
    before, after = stratified(old, 200), stratified({**old, **new}, 200)
    for stratum in ("fr", "us"):
        then = [name for name in before if old[name] == stratum]
        now = [name for name in after if {**old, **new}[name] == stratum]
        kept = [name for name in now if name in old]
        assert kept[: len(then)] == then[: len(kept)]
    assert len(set(before) & set(after)) > 130  # shares change, and with them how many of each are taken
