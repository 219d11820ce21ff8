"""Which gold records may judge: none whose text was annotated, shown or learned from, in whichever copy."""

import numpy as np
import pyarrow as pa
import pytest

from llambert import schema
from llambert.evaluation.evidence import read_evidence
from llambert.evaluation.quality import assess
from llambert.evaluation.suspects import find_suspects
from tests.fixtures.synthetic_run import Plan, give_text, write_run

# Records take turns: 300 is of split train, 301 of test, 302 of extra, 303 of train again.
SPLITS = ("train", "test", "extra")
TRAIN, TEST, EXTRA = 300, 301, 302


def plan(*copies: tuple[int, int], **fields) -> Plan:
    return Plan(**{"splits": SPLITS, "num_duplicates": 0, "num_annotated": 50, **fields}, copies=copies)


def complete(run, name: str, table: pa.Table) -> None:
    """Write a table in the place of what is there."""
    directory = run.table(name)
    directory.complete(name, [directory.commit_part("part-99999.parquet", table)])


def unseen(folder, made: Plan) -> set[int]:
    return set(np.flatnonzero(read_evidence(write_run(folder, made)).records.is_unseen).tolist())


@pytest.mark.parametrize("regime", ["gold", "combined"])
@pytest.mark.parametrize(("copy", "first"), [(TRAIN + 30, TEST), (TEST + 30, TRAIN)])
def test_a_test_record_whose_text_was_trained_on_with_gold_is_not_unseen(tmp_path, regime, copy, first):
    test = first if first % 3 == 1 else copy
    alone = unseen(tmp_path / "alone", plan(regime=regime))
    assert test in alone
    twice = write_run(tmp_path / "twice", plan((copy, first), regime=regime))
    records = read_evidence(twice).records
    assert set(np.flatnonzero(records.is_unseen).tolist()) == alone - {test}
    assert records.is_trained_on_gold[[copy, first]].all()
    # Nor does it correct the shares.
    num_open = int((~records.is_trained_on_gold).sum())
    assert {share.corrected.num for share in assess(read_evidence(twice)).shares} == {num_open}
    assert num_open == 400 - 1


@pytest.mark.parametrize(("copy", "first"), [(TRAIN + 30, TEST), (TEST + 30, TRAIN), (EXTRA + 30, TEST)])
def test_a_text_that_nothing_was_made_of_judges_once(tmp_path, copy, first):
    alone = unseen(tmp_path / "alone", plan())
    assert {copy, first} <= alone
    assert unseen(tmp_path / "twice", plan((copy, first))) == alone - {copy}


def test_three_copies_in_three_splits_are_seen_together(tmp_path):
    found = unseen(tmp_path, plan((TRAIN + 30, TEST), (EXTRA + 60, TEST), regime="gold"))
    assert not found & {TEST, TRAIN + 30, EXTRA + 60}


def test_a_record_whose_text_was_annotated_in_another_copy_was_seen(tmp_path):
    run = write_run(tmp_path, plan())
    records = read_evidence(run).records
    annotated, other = int(np.flatnonzero(records.is_annotated)[0]), int(np.flatnonzero(records.is_unseen)[0])
    pair = pa.table([[f"r{annotated:05d}"], [f"r{other:05d}"]], schema=schema.DUPLICATES)
    complete(run, "duplicates", pair)
    again = read_evidence(run).records
    assert again.is_seen[other]
    assert (again.is_annotated == records.is_annotated).all()
    assert set(np.flatnonzero(again.is_unseen)) == set(np.flatnonzero(records.is_unseen)) - {other}


@pytest.mark.parametrize(("copy", "first"), [(TRAIN + 30, TEST), (TEST + 30, TRAIN)])
def test_drawn_gold_shots_and_every_record_with_their_text_were_seen(tmp_path, copy, first):
    alone = unseen(tmp_path / "alone", plan())
    assert {copy, first} <= alone
    run = write_run(tmp_path / "shown", plan((copy, first), annotator={"gold_shots": {}, "num_shots": 1}))
    text = "A text of this record alone."
    give_text(run, copy, text)
    complete(run, "shots", pa.table([[f"r{copy:05d}"], [f" {text}\n"], ["positive"]], schema=schema.SHOTS))
    assert set(np.flatnonzero(read_evidence(run).records.is_unseen).tolist()) == alone - {copy, first}


def test_records_that_are_the_prompts_own_shots_were_seen(tmp_path):
    run = write_run(tmp_path, plan())
    alone = set(np.flatnonzero(read_evidence(run).records.is_unseen).tolist())
    shots = run.task.prompt("completion").shots
    assert shots
    assert TEST in alone
    give_text(run, TEST, f"{shots[0].text}\n")
    assert set(np.flatnonzero(read_evidence(run).records.is_unseen).tolist()) == alone - {TEST}


def test_an_annotated_record_that_is_a_shot_judges_no_silver_label(tmp_path):
    run = write_run(tmp_path, plan())
    evidence = read_evidence(run)
    place, before = int(evidence.silver.row[0]), assess(evidence)
    give_text(run, place, f"{run.task.prompt('completion').shots[0].text}\n")
    evidence = read_evidence(run)
    after = assess(evidence)
    assert np.flatnonzero(evidence.records.is_given_away).tolist() == [place]
    assert evidence.records.is_annotated[place]
    assert after.silver.accuracy.num == after.prior.raw.num == before.silver.accuracy.num - 1
    assert sum(one.num for one in after.silver_by_split.values()) == after.silver.accuracy.num
    assert find_suspects(run, evidence).base_rate.num == after.silver.accuracy.num


def test_gold_that_the_prior_correction_was_fitted_to_judges_no_silver_label(tmp_path):
    alone = assess(read_evidence(write_run(tmp_path / "alone", plan())))
    row = int(read_evidence(write_run(tmp_path / "row", plan())).silver.row[0])
    gold = {"gold_labels": {f"r{row:05d}": "positive"}}
    fitted = assess(read_evidence(write_run(tmp_path / "fitted", plan(parse={"prior_correction": "gold", **gold}))))
    assert fitted.silver.accuracy.num == alone.silver.accuracy.num - 1
    unread = assess(read_evidence(write_run(tmp_path / "unread", plan(parse={"prior_correction": "batch", **gold}))))
    assert unread.silver.accuracy.num == alone.silver.accuracy.num


@pytest.mark.parametrize(
    ("regime", "learned"),
    [
        ("silver", {"train"}),
        ("silver_extra", {"train", "extra"}),
        ("combined", {"train", "extra"}),
        ("gold", {"train"}),
    ],
)
def test_the_classifier_learned_from_annotated_texts_of_the_splits_of_its_regime(tmp_path, regime, learned):
    records = read_evidence(write_run(tmp_path, plan(regime=regime))).records
    found = {records.splits[code] for code in records.split[records.is_learned]}
    assert found == learned
    assert not (records.is_unlearned & (records.is_learned | records.is_trained_on_gold)).any()
    assert (records.is_unlearned & ~records.is_unseen).any()  # annotated, but of a split that is not learned from
    in_learned = np.isin(records.split, [records.splits.index(name) for name in learned])
    if regime.startswith("silver"):
        assert (records.is_learned == (records.is_annotated & in_learned)).all()


def test_suspected_labels_are_judged_by_gold_that_was_not_learned_from(tmp_path):
    run = write_run(tmp_path, Plan(splits=("train", "test"), regime="combined"))
    evidence = read_evidence(run)
    rows = evidence.silver.row
    num_open = int((~evidence.records.is_trained_on_gold[rows]).sum())
    assert find_suspects(run, evidence).base_rate.num == num_open < len(rows)


def test_a_text_whose_first_copy_has_no_gold_label_is_judged_by_the_copy_that_has(tmp_path):
    run = write_run(tmp_path, plan((TRAIN + 30, TEST), (EXTRA + 60, TEST)))
    before = read_evidence(run)
    assert before.records.is_evaluated[TEST]
    _take_gold(run, TEST)
    after = read_evidence(run)
    assert not after.records.is_evaluated[TEST]
    assert after.records.is_evaluated[TRAIN + 30]
    assert not after.records.is_evaluated[EXTRA + 60]
    assert after.records.gold[TEST] == after.records.gold[TRAIN + 30]
    assert after.records.num_gold == before.records.num_gold - 1
    assert assess(after).whole.accuracy.num == assess(before).whole.accuracy.num


def test_a_silver_label_is_judged_by_the_gold_label_of_a_copy(tmp_path):
    run = write_run(tmp_path, plan())
    annotated, other = (int(np.flatnonzero(mask)[0]) for mask in _annotated_and_unseen(run))
    complete(run, "duplicates", pa.table([[f"r{other:05d}"], [f"r{annotated:05d}"]], schema=schema.DUPLICATES))
    before = assess(read_evidence(run))
    _take_gold(run, annotated)
    assert assess(read_evidence(run)).silver.accuracy.num == before.silver.accuracy.num


def _annotated_and_unseen(run):
    records = read_evidence(run).records
    silver = np.zeros(len(records), bool)
    silver[read_evidence(run).silver.row] = True
    return silver, records.is_unseen


def _take_gold(run, place: int) -> None:
    """Take a record's gold label away."""
    table = run.table("corpus").read()
    gold = table[schema.GOLD_LABEL].to_pylist()
    gold[place] = None
    index = table.column_names.index(schema.GOLD_LABEL)
    complete(run, "corpus", table.set_column(index, schema.GOLD_LABEL, pa.array(gold, pa.string())))
