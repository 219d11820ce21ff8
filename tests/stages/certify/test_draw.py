"""The certification sample: whom it is drawn among, what it depends on, and what is too small."""

import numpy as np
import pytest

from llambert import schema
from llambert.errors import InputError
from llambert.evaluation.guarantee import Population
from llambert.execution.in_process import IN_PROCESS
from llambert.hashing import hash64
from llambert.pipeline import pipeline
from llambert.stages.certify.draw import (
    NUM_RECORDS,
    NUM_UNDECIDED,
    check_before_annotation,
    draw,
    populations_of,
    read_sample,
)
from llambert.storage.part_file import is_part
from tests.fixtures.certified_runs import NUM_COPIES, guess, make_up_labels, open_labelled, texts_of, write_folder
from tests.fixtures.certified_runs import NUM_RECORDS as NUM_ALL
from tests.fixtures.growing_corpora import open_growing


def sampled(*settings: str) -> list[str]:
    run = open_labelled(*settings)
    draw(run)
    return read_sample(run)[schema.RECORD_ID].to_pylist()


def decided(run) -> set[str]:
    return set(run.table("sample").read([schema.TEXT])[schema.TEXT].to_pylist())


def test_no_text_that_training_saw_is_drawn_and_copies_are_records_like_any_other(films):
    run = open_labelled("guarantee.certify_records=10000")
    drawn, texts, seen = draw(run), texts_of(run), decided(run)
    ids = read_sample(run)[schema.RECORD_ID].to_pylist()
    assert set(ids) == {record_id for record_id, text in texts.items() if text not in seen}
    assert len(ids) == drawn.counts[NUM_UNDECIDED] == drawn.num_kept
    assert drawn.counts[NUM_RECORDS] == NUM_ALL == len(texts)
    learned = run.table("learned").read([schema.TEXT_HASH])[schema.TEXT_HASH].to_numpy()
    assert not np.isin(hash64(read_sample(run)[schema.TEXT]), learned).any()
    of_sample = [texts[record_id] for record_id in ids]
    assert 0 < len(of_sample) - len(set(of_sample)) <= NUM_COPIES


def test_each_record_is_as_likely_as_any_other_copies_too(films):
    run = open_labelled()
    texts, seen = texts_of(run), decided(run)
    undecided = [record_id for record_id, text in texts.items() if text not in seen]
    texts_of_copies = {texts[i] for i in undecided if sum(texts[i] == texts[j] for j in undecided) > 1}
    is_copy = np.array([texts[record_id] in texts_of_copies for record_id in undecided])
    num, times = 60, np.zeros(len(undecided))
    for seed in range(num):
        drawn = set(sampled(f"guarantee.seed={seed}"))
        times += [record_id in drawn for record_id in undecided]
    share = 150 / len(undecided)
    expected, sigma = num * share, np.sqrt(num * share * (1 - share))
    assert abs(times[is_copy].mean() - expected) < 4 * sigma / np.sqrt(is_copy.sum())
    assert (abs(times - expected) < 5 * sigma).all()


def test_samples_of_one_seed_are_nested_and_those_of_others_differ(films):
    small, large, other = sampled("guarantee.certify_records=80"), sampled(), sampled("guarantee.seed=1")
    assert large[:80] == small
    assert sampled("guarantee.target=0.9") == large
    assert len(set(other) & set(large)) < 120


def test_the_population_of_a_category_is_what_the_classifier_labels_as_it(films):
    run = open_labelled()
    drawn, categories = draw(run), run.task.category_names
    labels = [guess(text)[0] for text in texts_of(run).values()]
    assert [each.num_records for each in populations_of(drawn, categories)] == [labels.count(c) for c in categories]
    assert sum(each.num_undecided for each in populations_of(drawn, categories)) == drawn.counts[NUM_UNDECIDED]


def test_labels_that_are_made_again_with_other_scores_are_sampled_again(films):
    run = open_labelled()
    before = draw(run)
    labels = run.table("labels")
    for name in [*(part.name for part in labels.require_manifest().parts), "manifest.json"]:
        labels.filesystem.rm_file(labels.path(name))
    make_up_labels(run, lambda text: (guess(text)[0], guess(text)[1] / 2))
    again = draw(run)
    assert again.content != before.content
    assert max(read_sample(run)[schema.SCORE].to_pylist()) <= 0.5
    names = {name for name in run.table("certification").file_names() if is_part(name)}
    assert names == {part.name for part in again.parts}
    assert draw(run) == again


def test_a_sample_that_can_show_nothing_is_refused_before_anything_is_asked_with_the_number_that_can(
    tmp_path, oracle, monkeypatch
):
    write_folder(tmp_path / "new", oracle.base_url, guarantee={"target": 0.95, "certify_records": 20})
    monkeypatch.chdir(tmp_path / "new")
    oracle.requests.clear()
    with pytest.raises(InputError, match=r"guarantee.certify_records: 20 records cannot show .*: \d+ can if") as error:
        pipeline(open_growing(), IN_PROCESS)
    assert oracle.calls == []
    fewest = int(str(error.value).partition(" can if")[0].rpartition(" ")[2])
    run = open_growing(f"guarantee.certify_records={fewest}")
    check_before_annotation(run)
    with pytest.raises(InputError, match=f"{fewest} can"):
        check_before_annotation(open_growing(f"guarantee.certify_records={fewest - 1}"))


def test_what_is_found_before_annotation_is_what_the_draw_finds(films):
    with pytest.raises(InputError) as error:
        draw(open_labelled("guarantee.certify_records=20"))
    fewest = int(str(error.value).partition(" can if")[0].rpartition(" ")[2])
    assert draw(open_labelled(f"guarantee.certify_records={fewest}")).num_kept == fewest
    run = open_growing(f"guarantee.certify_records={fewest}", "annotator.prompt=completion")  # not annotated so
    check_before_annotation(run)
    with pytest.raises(InputError):
        check_before_annotation(open_growing(f"guarantee.certify_records={fewest - 1}", "annotator.prompt=completion"))


def test_people_decide_nothing_before_and_gold_that_training_learns_is_left_to_the_draw(films):
    with pytest.raises(InputError, match="can if every label is right"):
        check_before_annotation(
            open_growing("guarantee.oracle=people", "guarantee.certify_records=20", "annotator.prompt=completion")
        )
    run = open_growing(
        "guarantee.oracle=people", "guarantee.certify_records=20", "classifier.regime=gold",
        "annotator.prompt=completion",
    )  # fmt: skip
    check_before_annotation(run)
    run = open_labelled("guarantee.oracle=people", "guarantee.certify_records=10000")
    assert draw(run).counts[NUM_UNDECIDED] == NUM_ALL
    run = open_labelled(
        "guarantee.oracle=people", "guarantee.certify_records=10000", "classifier.regime=gold",
    )  # fmt: skip
    assert draw(run).counts[NUM_UNDECIDED] < NUM_ALL - 90


def test_a_population_that_is_decided_needs_no_sample(films):
    run = open_labelled("guarantee.certify_records=1", "annotator.num_records=480")
    assert draw(run).num_kept == 0
    assert Population(NUM_ALL, 0).num_allowed(0.95) >= 0
