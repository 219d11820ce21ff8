"""Which records are annotated and which are shown: uniform and stratified samples, shots from gold records."""

from collections import Counter

import pytest
from annotate_runs import DUPLICATES, IDS, NUM_RECORDS, eligible_in_hash_order

from llambert import schema
from llambert.errors import InputError
from llambert.stages.annotate import AnnotatePart
from llambert.stages.sample import draw_sample, draw_shots, prompted_task


def test_sample_holds_the_smallest_hashes_in_order_without_duplicates(make_run):
    run = make_run(num_records=21)
    sampled = draw_sample(run)
    table = run.table("sample").read()
    assert table[schema.RECORD_ID].to_pylist() == eligible_in_hash_order()[:21]
    assert [part.name for part in sampled.parts] == [
        "part-000000000-000000008.parquet",
        "part-000000008-000000016.parquet",
        "part-000000016-000000021.parquet",
    ]
    for record_id, text in zip(*table.to_pydict().values(), strict=True):
        assert text.endswith(f"Number {int(record_id[1:])}.")  # each id with its own text
    assert sampled.num_rejected == {"duplicate": 5, "not_sampled": NUM_RECORDS - 5 - 21}
    assert sampled.counts["num_short"] == 0


def test_sample_larger_than_the_corpus_takes_all_and_says_how_many_are_missing(make_run):
    sampled = draw_sample(make_run(num_records=100))
    assert sampled.num_kept == 55
    assert sampled.counts["num_short"] == 45


def test_sample_of_many_windows_is_the_same(make_run, monkeypatch):
    monkeypatch.setattr("llambert.stages.sample._MIN_PARTS_PER_WINDOW", 1)
    run = make_run(num_records=50)
    draw_sample(run)
    assert run.table("sample").read([schema.RECORD_ID])[0].to_pylist() == eligible_in_hash_order()[:50]


def sampled_ids(run) -> list[str]:
    draw_sample(run)
    return run.table("sample").read([schema.RECORD_ID])[0].to_pylist()


@pytest.mark.parametrize("num", [1, 7, 22, 55])
def test_stratified_sample_keeps_the_shares_and_is_nested(make_run, num):
    ids = sampled_ids(make_run(gold=True, num_records=num, stratify_by="country"))
    assert len(set(ids)) == num
    assert not set(ids) & set(DUPLICATES)
    country = dict(zip(IDS, [None] * 6 + ["fr"] * 18 + ["us"] * 36, strict=True))
    sizes = Counter(country[i] for i in IDS if i not in DUPLICATES)
    found = Counter(country[i] for i in ids)
    for name, size in sizes.items():
        assert abs(found[name] - num * size / 55) < 1
    smaller = sampled_ids(make_run(gold=True, num_records=max(num - 5, 1), stratify_by="country"))
    assert ids[: len(smaller)] == smaller


def test_stratifying_by_what_is_not_there_or_by_gold_is_refused(make_run):
    for column in ("region", schema.GOLD_LABEL):
        with pytest.raises(InputError, match=rf"stratify_by: .*'{column}'.* it has split, country"):
            draw_sample(make_run(gold=True, num_records=5, stratify_by=column))


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
    sampled = draw_sample(run)
    ids = run.table("sample").read([schema.RECORD_ID])[0].to_pylist()
    assert sorted(ids) == sorted(set(eligible_in_hash_order()) - {row[schema.RECORD_ID] for row in shots[4]})
    assert sampled.num_rejected == {"duplicate": 5, "shot": 4, "not_sampled": 0}
    other = make_run(gold=True, num_records=60, gold_shots={"seed": 4}, num_shots=4)
    draw_shots(other)
    assert other.table("shots").read().to_pylist() != shots[4]
    assert other.fingerprints["responses"] != run.fingerprints["responses"]


def test_gold_shots_stand_in_the_prompt(make_run):
    run = make_run(gold=True, num_records=9, gold_shots={}, num_shots=2)
    draw_sample(run)
    (part,) = AnnotatePart(run)({"start": 0, "end": 2}).parts
    prompt = run.table("responses").read_part(part.name)[schema.PROMPT][0].as_py()
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
