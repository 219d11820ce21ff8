"""What the oracle has decided before it is asked for a guarantee, and which text belongs to which label."""

import numpy as np
import pyarrow as pa
import pytest

from llambert import schema
from llambert.hashing import hash64
from llambert.stages.undecided import codes_of, contains, decided_texts, iter_labelled, iter_texts
from tests.fixtures.certified_runs import guess, open_labelled, texts_of


def hashes(texts) -> set[int]:
    return set(hash64(pa.array(list(texts), pa.string())).tolist())


def test_the_annotator_has_decided_its_sample_and_what_training_learned_of_it(films):
    run = open_labelled()
    found = decided_texts(run)
    assert (np.diff(found.astype(object)) > 0).all()
    sampled = hashes(run.table("sample").read([schema.TEXT])[schema.TEXT].to_pylist())
    assert set(found.tolist()) == sampled
    grown = open_labelled("annotator.num_records=20")  # as if the checkpoint were of a larger sample
    learned = grown.table("learned")
    learned.filesystem.rm_file(learned.path(learned.part_names()[0]))
    rows = run.table("learned").read()
    grown.complete("learned", [learned.commit_part("part-00000.parquet", rows)])
    assert set(decided_texts(grown).tolist()) == sampled


@pytest.mark.parametrize(("regime", "num"), [("silver", 0), ("gold", 100), ("combined", 100)])
def test_people_have_decided_the_gold_labels_that_training_learned(films, regime, num):
    run = open_labelled("guarantee.oracle=people", f"classifier.regime={regime}")
    texts = list(texts_of(run).values())[:num]
    assert set(decided_texts(run).tolist()) == hashes(texts)


def test_each_label_comes_with_the_hash_of_its_text_and_its_text(films):
    run, seen = open_labelled(), 0
    texts = texts_of(run)
    for part, rows in iter_labelled(run):
        assert part.num_rows == rows.num_rows
        expected = hash64(pa.array([texts[i] for i in rows[schema.RECORD_ID].to_pylist()], pa.string()))
        assert rows[schema.TEXT_HASH].to_numpy().tolist() == expected.tolist()
        seen += rows.num_rows
    assert seen == len(texts)
    wanted = list(texts)[::7]
    found = pa.concat_tables(list(iter_texts(run, pa.array(wanted)))).to_pylist()
    assert [row[schema.RECORD_ID] for row in found] == wanted
    for row in found:
        assert row[schema.TEXT] == texts[row[schema.RECORD_ID]]
        assert (row[schema.LABEL], row[schema.SCORE]) == pytest.approx(guess(row[schema.TEXT]))


def test_membership_in_sorted_hashes():
    sorted_hashes = np.array([2, 5, 2**64 - 1], np.uint64)
    wanted = np.array([0, 2, 3, 5, 2**64 - 1], np.uint64)
    assert contains(sorted_hashes, wanted).tolist() == [False, True, False, True, True]
    assert not contains(np.zeros(0, np.uint64), wanted).any()


def test_labels_as_places_among_the_categories():
    labels = pa.chunked_array([["b"], ["a", "b"]])
    assert codes_of(labels, ["a", "b"]).tolist() == [1, 0, 1]
