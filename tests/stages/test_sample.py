"""Which records are annotated and which are shown: uniform and stratified samples, shots from gold records."""

import logging
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.sampling import Selection
from llambert.annotation.splits import warn_of_unused_annotations
from llambert.errors import InputError
from llambert.recipe import dump_recipe
from llambert.run import Run
from llambert.stages.asking.replica import AskPart
from llambert.stages.sample import sample
from llambert.stages.shots import draw_shots, prompted_task
from tests.fixtures.annotate_runs import DUPLICATES, IDS, NUM_RECORDS, eligible_in_hash_order

TRAIN = [record_id for n, record_id in enumerate(IDS) if n % 3]
COUNTRY = dict(zip(IDS, [None] * 6 + ["fr"] * 18 + ["us"] * 36, strict=True))


def test_sample_holds_the_smallest_hashes_in_order_without_duplicates(make_run):
    run = make_run(num_records=21, gold=True)
    sampled = sample(run)
    table = run.table("sample").read()
    assert table[schema.RECORD_ID].to_pylist() == eligible_in_hash_order()[:21]
    assert [part.name for part in sampled.parts] == [
        "part-000000000-000000008.parquet",
        "part-000000008-000000016.parquet",
        "part-000000016-000000021.parquet",
    ]
    for record_id, text, split in zip(*table.to_pydict().values(), strict=True):
        assert text.endswith(f"Number {int(record_id[1:])}.")  # each id with its own text, and its split
        assert split == ("train" if record_id in TRAIN else "test")
    assert sampled.num_rejected == {"duplicate": 5, "not_sampled": NUM_RECORDS - 5 - 21}
    assert sampled.counts["num_short"] == 0


def test_sample_larger_than_the_corpus_takes_all_and_says_how_many_are_missing(make_run):
    sampled = sample(make_run(num_records=100))
    assert sampled.num_kept == 55
    assert sampled.counts["num_short"] == 45


def test_sample_of_many_windows_is_the_same(make_run, monkeypatch):
    monkeypatch.setattr("llambert.stages.rank_order.MIN_PARTS_PER_WINDOW", 1)
    run = make_run(num_records=50)
    sample(run)
    assert run.table("sample").read([schema.RECORD_ID])[0].to_pylist() == eligible_in_hash_order()[:50]


def sampled_ids(run) -> list[str]:
    sample(run)
    return run.table("sample").read([schema.RECORD_ID])[0].to_pylist()


@pytest.mark.parametrize("num", [1, 7, 22, 55])
def test_stratified_sample_keeps_the_shares_and_is_nested(make_run, num):
    ids = sampled_ids(make_run(gold=True, num_records=num, stratify_by="country"))
    assert len(set(ids)) == num
    assert not set(ids) & set(DUPLICATES)
    sizes = Counter(COUNTRY[i] for i in IDS if i not in DUPLICATES)
    found = Counter(COUNTRY[i] for i in ids)
    for name, size in sizes.items():
        assert abs(found[name] - num * size / 55) < 1
    smaller = sampled_ids(make_run(gold=True, num_records=max(num - 5, 1), stratify_by="country"))
    assert ids[: len(smaller)] == smaller


@pytest.mark.parametrize("num", [1, 9, 36, 50])
def test_sample_of_some_splits_is_that_of_a_corpus_that_has_no_others(make_run, num):
    run = make_run(gold=True, num_records=num, splits=("train",))
    sampled = sample(run)
    expected = [record_id for record_id in eligible_in_hash_order() if record_id in TRAIN][:num]
    assert run.table("sample").read([schema.RECORD_ID])[0].to_pylist() == expected
    # 20 records are of split test; the duplicates are of split train.
    left_out = {"other_split": 20, "duplicate": len(set(DUPLICATES) & set(TRAIN))}
    num_eligible = 40 - left_out["duplicate"]
    assert sampled.num_rejected == left_out | {"not_sampled": num_eligible - len(expected)}
    assert sampled.num_in == NUM_RECORDS == sampled.num_kept + sum(sampled.num_rejected.values())
    assert sampled.counts == {"num_short": num - len(expected), "split.train": len(expected)}
    assert sampled.recipe["splits"] == ["train"]


def test_sample_of_all_splits_by_name_is_the_sample(make_run):
    run = make_run(gold=True, num_records=25, splits=("train", "test"))
    assert sampled_ids(run) == eligible_in_hash_order()[:25]
    per_split = run.table("sample").require_manifest().counts
    assert per_split["split.test"] + per_split["split.train"] == 25


@pytest.mark.parametrize("num", [3, 14, 36])
def test_stratified_sample_of_some_splits_keeps_the_shares_of_these(make_run, num):
    ids = sampled_ids(make_run(gold=True, num_records=num, splits=("train",), stratify_by="country"))
    assert set(ids) <= set(TRAIN) - set(DUPLICATES)
    sizes = Counter(COUNTRY[i] for i in TRAIN if i not in DUPLICATES)
    found = Counter(COUNTRY[i] for i in ids)
    for name, size in sizes.items():
        assert abs(found[name] - len(ids) * size / sizes.total()) < 1
    by_split = make_run(gold=True, num_records=num, splits=("train",), stratify_by="split")
    assert set(sampled_ids(by_split)) <= set(TRAIN)


def test_shots_of_a_split_that_is_not_annotated_are_counted_with_it(make_run):
    run = make_run(gold=True, num_records=60, splits=("test",), gold_shots={}, num_shots=4, regime="gold")
    sampled = sample(run)
    num_duplicates = len(set(DUPLICATES) - set(TRAIN))
    assert sampled.num_kept == 20 - num_duplicates
    assert sampled.num_rejected == {"other_split": 40, "duplicate": num_duplicates, "not_sampled": 0}
    run = make_run(gold=True, num_records=60, splits=("train",), gold_shots={}, num_shots=4)
    sampled = sample(run)
    assert sampled.num_rejected["shot"] == 4
    assert not set(run.table("shots").read()[schema.RECORD_ID].to_pylist()) & set(sampled_ids(run))


def test_a_sample_without_one_record_is_refused_with_the_reasons(make_run):
    run = make_run(gold=True, num_records=5, splits=("test",), regime="gold")
    test = [record_id for record_id in IDS if record_id not in TRAIN]
    rows = pa.table([test, [TRAIN[0]] * len(test)], schema=schema.DUPLICATES)
    duplicates = run.table("duplicates")
    part = duplicates.commit_part("part-00001.parquet", rows)
    manifest = duplicates.require_manifest().model_copy(
        update={"num_in": len(test), "num_kept": len(test), "parts": [part]}
    )
    duplicates.filesystem.pipe_file(duplicates.path("manifest.json"), manifest.model_dump_json().encode())
    with pytest.raises(InputError, match=r"no record can be annotated: .* 40 are of splits .* 20 have the text of an"):
        sample(run)


def test_a_split_that_is_not_there_is_refused_in_one_line_that_names_those_that_are(make_run):
    for splits in (("trian",), ("Train", "test"), ("train ", "train")):
        run = make_run(gold=True, num_records=5, splits=splits, gold_shots={}, num_shots=2)
        with pytest.raises(InputError, match=r"annotator.splits: .*'(trian|Train|train )'; it has test, train$"):
            sample(run)
        assert run.table("sample").read_manifest() is None


@pytest.mark.parametrize(
    ("regime", "splits", "said"),
    [
        ("silver", None, r"annotator.splits: \d+ of 55 .*regime silver does not learn from: \d+ test; set"),
        ("combined", ("test", "train"), r"annotator.splits: \d+ of 55 .*regime combined does not"),
        ("gold", ("train",), "classifier.regime gold learns from none of the 35 records"),
        ("silver", ("train",), None),
    ],
)
def test_annotations_that_the_regime_does_not_learn_from_are_told_before_they_are_made(
    make_run, caplog, regime, splits, said
):
    run = make_run(gold=True, num_records=60, splits=splits)
    classifier = run.recipe.classifier.model_copy(update={"regime": regime})
    run = Run(run.recipe.model_copy(update={"classifier": classifier}), run.task)
    sampled = sample(run)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_unused_annotations(run.recipe.classifier, sampled)
    if said is None:
        assert not caplog.messages
    else:
        assert [bool(re.search(said, message)) for message in caplog.messages] == [True]


def test_gold_shots_are_drawn_independently_of_the_annotation_sample(make_run):
    # Of the gold records that may be shown, half are annotated: those of the smallest hashes under the same seed.
    num_shown = num_annotated = 0
    for seed in range(12):
        run = make_run(gold=True, num_records=5, seed=seed, gold_shots={"seed": seed}, num_shots=10)
        draw_shots(run)
        open_ids = [i for n, i in enumerate(IDS) if n % 3 and n % 5 != 4 and i not in DUPLICATES]
        annotated = Selection.smallest(pa.array(open_ids), len(open_ids) // 2, seed).record_ids.to_pylist()
        shown = run.table("shots").read()[schema.RECORD_ID].to_pylist()
        num_shown += len(shown)
        num_annotated += len(set(shown) & set(annotated))
    assert abs(num_annotated - num_shown / 2) < 4 * np.sqrt(num_shown / 4)


def test_stratifying_by_what_is_not_there_or_by_gold_is_refused(make_run):
    for column in ("region", schema.GOLD_LABEL):
        with pytest.raises(InputError, match=rf"stratify_by: .*'{column}'.* it has split, country"):
            sample(make_run(gold=True, num_records=5, stratify_by=column))


def test_gold_shots_are_balanced_nested_from_train_and_never_annotated(make_run):
    shots = {}
    for num in (1, 2, 3, 4):
        run = make_run(gold=True, num_records=60, gold_shots={"seed": 3}, num_shots=num)
        draw_shots(run)
        shots[num] = run.table("shots").read().to_pylist()
        assert shots[num] == shots[max(shots)][:num]
    per_label = Counter(row[schema.GOLD_LABEL] for row in shots[4])
    assert per_label == {"negative": 2, "positive": 2}
    for row in shots[4]:
        number = int(row[schema.RECORD_ID][1:])
        assert number % 3 != 0  # split train
        assert row[schema.RECORD_ID] not in DUPLICATES
        assert row[schema.GOLD_LABEL] == ("negative", "positive")[number % 2]
    sampled = sample(run)
    ids = run.table("sample").read([schema.RECORD_ID])[0].to_pylist()
    assert sorted(ids) == sorted(set(eligible_in_hash_order()) - {row[schema.RECORD_ID] for row in shots[4]})
    assert sampled.num_rejected == {"duplicate": 5, "shot": 4, "not_sampled": 0}
    other = make_run(gold=True, num_records=60, gold_shots={"seed": 4}, num_shots=4)
    draw_shots(other)
    assert other.table("shots").read().to_pylist() != shots[4]
    assert other.fingerprints["responses"] != run.fingerprints["responses"]


def test_gold_shots_stand_in_the_prompt(make_run):
    run = make_run(gold=True, num_records=9, gold_shots={}, num_shots=2)
    sample(run)
    (part,) = AskPart(run)({"ranks": [[0, 2]]}).parts
    prompt = run.table("answers").read_part(part.name)[schema.PROMPT][0].as_py()
    words = {category.name: category.answer_words[0] for category in run.task.categories}
    for row in run.table("shots").read().to_pylist():
        before, _, after = prompt.partition(row[schema.TEXT])
        assert before != prompt
        assert words[row[schema.GOLD_LABEL]] in after.split("\n")[0] + after.split("\n")[1]
    shown = [(shot.text, shot.label) for shot in prompted_task(run).prompt("completion").shots]
    assert shown == [(row[schema.TEXT], row[schema.GOLD_LABEL]) for row in run.table("shots").read().to_pylist()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_shots": 40}, "40 shots need 20 gold records of each category"),
        ({"num_shots": None}, "annotator.num_shots: say how many"),
        ({"num_shots": 2, "gold_shots": {"max_chars": 3}}, "no longer than max_chars"),
    ],
)
def test_too_few_gold_records_for_shots_are_one_line(make_run, settings, message):
    with pytest.raises(InputError, match=message):
        draw_shots(make_run(gold=True, num_records=9, **{"gold_shots": {}, **settings}))


def test_the_job_draws_the_sample(make_run, tmp_path):
    run = make_run(num_records=8)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(run.recipe))
    job = Path(__file__).parents[2] / "jobs" / "sample.py"
    subprocess.run([sys.executable, job, tmp_path / "recipe.yaml"], check=True, timeout=120)
    assert run.table("sample").require_manifest().num_kept == 8
