"""From a certificate to decisions: who is asked, who decides, and what is guaranteed where not all could be asked."""

import numpy as np
import pytest

from llambert import schema
from llambert.errors import InputError
from llambert.evaluation.certified import Certified
from llambert.evaluation.guarantee import achieved_share
from llambert.execution.in_process import IN_PROCESS
from llambert.stages.certify import certify
from llambert.stages.certify.draw import read_sample
from llambert.stages.escalate import escalate
from llambert.stages.escalate.deferred import NUM_DEFERRED, NUM_LEFT_OUT
from llambert.storage.part_file import is_part
from tests.fixtures.certified_runs import MUMBLED, NUM_RECORDS, finish, guess, open_labelled, texts_of, truth
from tests.fixtures.growing_corpora import rows, states, write

TABLES = ("certification", "certification_responses", "certificate", "deferred", "escalated", "decisions")


def decisions_of(run) -> list[dict]:
    return run.table("decisions").read().to_pylist()


def share_right(run) -> float:
    """Of all records, those whose final label is the oracle's; one without a category agrees with nobody."""
    texts = texts_of(run)
    right = [
        MUMBLED not in texts[row[schema.RECORD_ID]] and row[schema.LABEL] == truth(texts[row[schema.RECORD_ID]])
        for row in decisions_of(run)
    ]
    return sum(right) / len(right)


def test_what_may_be_kept_is_the_classifiers_and_all_else_the_annotators(films, oracle):
    run, certificate, decisions = finish()
    texts, threshold = texts_of(run), certificate.measures["threshold"]
    asked = set(run.table("sample").read([schema.TEXT])[schema.TEXT].to_pylist())
    asked |= set(read_sample(run)[schema.TEXT].to_pylist())
    found = decisions_of(run)
    assert [row[schema.RECORD_ID] for row in found] == list(texts) == [
        row[schema.RECORD_ID] for row in run.table("labels").read().to_pylist()
    ]  # fmt: skip
    for row in found:
        text = texts[row[schema.RECORD_ID]]
        label, score = guess(text)
        is_kept = text not in asked and np.float32(score) >= threshold
        assert row[schema.DECIDED_BY] == ("classifier" if is_kept else "annotator")
        assert row[schema.LABEL] == (label if is_kept else truth(text))
        assert (row[schema.CLASSIFIER_LABEL], row[schema.SCORE]) == (label, pytest.approx(score))
    by_annotator = sum(row[schema.DECIDED_BY] == "annotator" for row in found)
    assert decisions.counts["by_annotator"] == by_annotator
    assert decisions.counts["by_classifier"] == NUM_RECORDS - by_annotator > 50
    assert decisions.counts["num_undecided"] == decisions.counts["num_unusable"] == 0
    assert decisions.measures == {"share_bound": certificate.measures["share_bound"]}
    assert 0.95 <= decisions.measures["share_bound"] <= share_right(run)


def test_copies_are_asked_once_and_counted_as_often_as_they_occur(films, oracle):
    run, _, decisions = finish("guarantee.target=0.98", "guarantee.certify_records=200")
    assert len(oracle.calls) == len(set(oracle.calls))
    deferred = run.table("deferred").read()
    texts = list(texts_of(run).values())
    assert len(set(deferred[schema.TEXT].to_pylist())) == deferred.num_rows
    num_copies = sum(texts.count(text) for text in deferred[schema.TEXT].to_pylist())
    assert run.table("deferred").require_manifest().counts[NUM_DEFERRED] == num_copies > deferred.num_rows
    of_text = {}
    for row, text in zip(decisions_of(run), texts, strict=True):
        said = of_text.setdefault(text, (row[schema.LABEL], row[schema.DECIDED_BY]))
        assert said == (row[schema.LABEL], row[schema.DECIDED_BY])
    assert decisions.counts["by_annotator"] + decisions.counts["by_classifier"] == NUM_RECORDS


def test_a_rerun_asks_nothing_and_writes_nothing_and_another_target_asks_only_what_is_new(films, oracle, capsys):
    run, _, decisions = finish("guarantee.target=0.9")
    before, calls = {name: states(run, name) for name in TABLES}, set(oracle.calls)
    oracle.requests.clear()
    capsys.readouterr()
    again, _, same = finish("guarantee.target=0.9")
    assert same == decisions
    assert {name: states(again, name) for name in TABLES} == before
    assert (oracle.calls, capsys.readouterr().out) == ([], "")
    _, _, higher = finish("guarantee.target=0.95")
    assert not set(oracle.calls) & calls
    assert higher.counts["by_annotator"] == decisions.counts["by_annotator"] + len(oracle.calls) + copies(again, oracle)
    oracle.requests.clear()
    assert finish("guarantee.target=0.9")[2] == decisions
    assert oracle.calls == []


def copies(run, oracle) -> int:
    """How many records have the text of another one that was asked about."""
    texts = list(texts_of(run).values())
    asked = [text for text in set(texts) if any(text in call for call in oracle.calls)]
    return sum(texts.count(text) for text in asked) - len(asked)


def test_at_most_max_records_are_asked_the_least_sure_first_and_the_bound_falls(films, oracle):
    whole, certificate, full = finish()
    num = whole.table("deferred").require_manifest().num_kept
    run, _, decisions = finish("guarantee.max_records=30")
    deferred = run.table("deferred").require_manifest()
    assert (deferred.num_kept, deferred.counts[NUM_LEFT_OUT]) == (30, num - 30)
    scores = whole.table("deferred").read()[schema.SCORE].to_pylist()
    assert scores == sorted(scores)
    assert run.table("deferred").read()[schema.SCORE].to_pylist() == scores[:30]
    assert_bound_of(run, certificate, decisions, scores[30])
    assert decisions.measures["share_bound"] < full.measures["share_bound"]
    assert decisions.counts["num_undecided"] >= num - 30
    assert decisions.measures["share_bound"] <= share_right(run)


def assert_bound_of(run, certificate, decisions, lowest: float) -> None:
    """The share that is reached where records from a score on are not asked."""
    table = run.table("certificate").read()
    score, wrong = table[schema.SCORE].to_numpy(), [
        row[schema.LABEL] != row[schema.ORACLE_LABEL] for row in table.to_pylist()
    ]  # fmt: skip
    found = Certified.of(certificate)
    reached = achieved_share(found.populations[""], score, np.array(wrong), found.promise, lowest)
    assert decisions.measures["share_bound"] == pytest.approx(reached)


def test_a_budget_that_ends_asks_the_least_sure_first_and_a_larger_one_asks_the_rest(films, oracle, capsys):
    settings = ["annotator.limits.concurrency=1"]
    run = open_labelled(*settings)
    certificate = certify(run, IN_PROCESS)
    spent = sum(
        run.table(name).require_manifest().counts[count]
        for name in ("responses", "certification_responses")
        for count in (schema.NUM_PROMPT_TOKENS, schema.NUM_RESPONSE_TOKENS)
    )
    oracle.requests.clear()
    run, _, decisions = finish(*settings, f"annotator.limits.budget_tokens={spent + 1200}")
    assert "the budget ends here" in capsys.readouterr().out
    deferred, escalated = (run.table(name).read() for name in ("deferred", "escalated"))
    is_answered = [name is not None for name in escalated[schema.ANSWERED_IN].to_pylist()]
    num = sum(is_answered)
    assert 10 < num == len(oracle.calls) < deferred.num_rows - 10
    assert is_answered == [True] * num + [False] * (deferred.num_rows - num)
    assert decisions.counts["num_undecided"] >= deferred.num_rows - num
    assert_bound_of(run, certificate, decisions, deferred[schema.SCORE][num].as_py())
    reached = decisions.measures["share_bound"]
    oracle.requests.clear()
    again, _, same = finish(*settings, f"annotator.limits.budget_tokens={spent + 1200}")
    assert (oracle.calls, same) == ([], decisions)
    again, _, rest = finish(*settings, f"annotator.limits.budget_tokens={10 * spent}")
    assert len(oracle.calls) == deferred.num_rows - num
    assert rest.counts["num_undecided"] == 0
    assert reached < rest.measures["share_bound"] == certificate.measures["share_bound"]
    for name in ("deferred", "decisions"):
        stored = {part for part in again.table(name).file_names() if is_part(part)}
        assert stored == {part.name for part in again.table(name).require_manifest().parts}


def test_what_is_not_escalated_keeps_the_classifiers_label_and_the_bound_says_so(films, oracle):
    whole, certificate, _ = finish()
    deferred = whole.table("deferred").read()
    oracle.requests.clear()
    run, _, decisions = finish("guarantee.escalate=never")
    assert oracle.calls == []
    assert run.table("escalated").read_manifest() is None
    assert_bound_of(run, certificate, decisions, min(deferred[schema.SCORE].to_pylist()))
    assert decisions.measures["share_bound"] <= share_right(run) < 0.95
    by = {row[schema.RECORD_ID]: row for row in decisions_of(run)}
    for row in deferred.to_pylist():
        assert by[row[schema.RECORD_ID]][schema.DECIDED_BY] == "classifier"
        assert by[row[schema.RECORD_ID]][schema.LABEL] == row[schema.LABEL]


def test_answers_without_a_category_leave_the_classifiers_label_and_count_against_the_bound(films, oracle):
    write(films / "corpus", "m", [f"{text} {MUMBLED}" for text in rows("m", 30)])
    run, certificate, decisions = finish("guarantee.target=0.9", "guarantee.escalate=always")
    texts = texts_of(run)
    mumbled = [row for row in decisions_of(run) if MUMBLED in texts[row[schema.RECORD_ID]]]
    asked = sum(MUMBLED in call for call in oracle.calls)
    assert decisions.counts["num_unusable"] >= asked > 0
    assert all(row[schema.DECIDED_BY] == "classifier" for row in mumbled)
    assert all(row[schema.LABEL] == row[schema.CLASSIFIER_LABEL] for row in mumbled)
    lost = decisions.counts["num_unusable"] / len(texts)
    assert decisions.measures["share_bound"] == pytest.approx(certificate.measures["share_bound"] - lost)
    assert decisions.measures["share_bound"] <= share_right(run)


def test_the_bound_of_each_category_is_of_the_records_that_the_classifier_gives_it(films):
    run, certificate, decisions = finish("guarantee.per_category=true", "guarantee.certify_records=300")
    bounds = {f"share_bound.{name}" for name in run.task.category_names}
    assert set(decisions.measures) == bounds
    assert {name: certificate.measures[name] for name in bounds} == decisions.measures
    texts, right = texts_of(run), {name: [] for name in run.task.category_names}
    for row in decisions_of(run):
        right[row[schema.CLASSIFIER_LABEL]].append(row[schema.LABEL] == truth(texts[row[schema.RECORD_ID]]))
    for name, each in right.items():
        assert 0.95 <= decisions.measures[f"share_bound.{name}"] <= sum(each) / len(each)
    fewer, _, reached = finish(
        "guarantee.per_category=true", "guarantee.certify_records=300", "guarantee.max_records=2"
    )  # fmt: skip
    assert fewer.table("deferred").require_manifest().num_kept == 2
    assert sum(reached.measures.values()) < sum(decisions.measures.values())


def test_probabilities_and_kept_columns_pass_through(films):
    run, _, _ = finish("label.probabilities=true", "label.keep=[text]")
    labels, decisions = run.table("labels").read(), run.table("decisions").read()
    assert decisions.column_names == [*schema.DECISIONS.names, schema.LABEL_PROBABILITIES, schema.TEXT] or set(
        decisions.column_names
    ) == {*schema.DECISIONS.names, schema.LABEL_PROBABILITIES, schema.TEXT}
    for name in (schema.LABEL_PROBABILITIES, schema.TEXT, schema.SCORE):
        assert decisions[name].to_pylist() == labels[name].to_pylist()
    assert decisions[schema.CLASSIFIER_LABEL].to_pylist() == labels[schema.LABEL].to_pylist()


def test_a_record_that_failed_for_a_passing_reason_is_asked_again_and_decided_then(films, oracle):
    whole, _, _ = finish()
    word = whole.table("deferred").read()[schema.TEXT][5].as_py().split()[-1]  # a word of this text alone
    oracle.fails_on = frozenset({word})
    settings = ("annotator.limits.max_attempts=3", "annotator.model=other")
    _, certificate, decisions = finish(*settings)
    assert decisions.counts["num_undecided"] == 1
    assert decisions.measures["share_bound"] < certificate.measures["share_bound"]
    oracle.fails_on = frozenset()
    oracle.requests.clear()
    _, _, follows = finish(*settings)
    assert len(oracle.calls) == 1
    assert word in oracle.calls[0]
    assert follows.counts["num_undecided"] == 0
    assert follows.measures["share_bound"] == certificate.measures["share_bound"]


def test_where_there_is_no_certificate_nothing_is_escalated(films):
    with pytest.raises(InputError, match="guarantee: the recipe has no such section"):
        escalate(open_labelled("guarantee=null"), IN_PROCESS)
    assert escalate(open_labelled("guarantee.oracle=people"), IN_PROCESS) is None
    with pytest.raises(InputError, match=r"certificate/.* is not complete"):
        escalate(open_labelled(), IN_PROCESS)


def test_texts_that_only_training_knows_are_asked_again_or_count_against_the_bound(films):
    """The corpus has grown and the checkpoint stayed: of some texts that it learned no answer is asked for any more."""
    full, _, _ = finish()
    learned = full.table("learned").read()
    smaller = open_labelled("annotator.num_records=20")
    table = smaller.table("learned")
    table.filesystem.rm_file(table.path(table.part_names()[0]))
    smaller.complete("learned", [table.commit_part("part-00000.parquet", learned)])
    _, certificate, asked = finish("annotator.num_records=20")
    assert asked.counts["num_unusable"] == 0
    assert asked.measures["share_bound"] == certificate.measures["share_bound"]
    texts = set(full.table("sample").read([schema.TEXT])[schema.TEXT].to_pylist())
    for row, text in zip(decisions_of(smaller), texts_of(smaller).values(), strict=True):
        assert text not in texts or (row[schema.DECIDED_BY], row[schema.LABEL]) == ("annotator", truth(text))
    run, _, withheld = finish("annotator.num_records=20", "guarantee.escalate=never")
    left = texts - set(run.table("sample").read([schema.TEXT])[schema.TEXT].to_pylist())
    num = sum(text in left for text in texts_of(run).values())
    assert withheld.counts["num_unusable"] == num >= 28
    assert withheld.measures["share_bound"] <= share_right(run)
