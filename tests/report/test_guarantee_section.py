"""The report of a run with a guarantee: its first sentence, its section, and when it is written again."""

import json
import re
import shutil
from collections import Counter

import pyarrow.compute as pc
import pytest

from llambert import schema
from llambert.evaluation.evidence import read_evidence
from llambert.evaluation.guaranteed import Guaranteed
from llambert.evaluation.quality import assess
from llambert.report.page import report, summary
from tests.fixtures.growing_corpora import open_growing
from tests.fixtures.guaranteed_runs import FallibleAnnotator, save_answers, start, write_certified
from tests.fixtures.openai_endpoint import KEY, serve


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified")
    with serve(FallibleAnnotator()) as endpoint:
        write_certified(folder, endpoint.base_url)
        yield folder


@pytest.fixture(autouse=True)
def workplace(tmp_path, finished, monkeypatch):
    """A copy of that folder, in which the test is; its annotator still answers."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shutil.copytree(finished, tmp_path / "films")
    monkeypatch.chdir(tmp_path / "films")


def read(run, name: str) -> str:
    return run.table("report").read_file(name).decode()


def figures(run) -> dict:
    return json.loads(read(run, "metrics.json"))


def metrics(run) -> dict[str, dict]:
    return {row["metric"]: row for row in figures(run)["metrics"]}


def section(run) -> str:
    return read(run, "report.md").split("\n## Guarantee\n")[1].split("\n## ")[0]


def decisions_of(run) -> list[dict]:
    return run.table("decisions").read().to_pylist()


def test_the_report_begins_with_the_guarantee_and_who_decided_how_many_labels():
    run = open_growing()
    by = Counter(row["decided_by"] for row in decisions_of(run))
    bound = run.table("decisions").require_manifest().measures["share_bound"]
    first = figures(run)["answer"][0]
    assert first.startswith(f"At least {int(bound * 1000) / 10:.1f}".removesuffix(".0"))
    assert "of the 300 final labels are those that the annotator gives (agreement with an LLM is not truth)" in first
    assert first.endswith(
        f"with probability 95 %: {by['annotator']} were decided by the annotator, {by['classifier']} kept the "
        "classifier's label."
    )
    assert summary(run).replace("\n", " ").startswith(first[:90])
    assert read(run, "report.md").split("\n")[2].startswith("At least")
    assert "<h2>Guarantee</h2>" in read(run, "report.html")


def test_accuracy_is_that_of_the_labels_users_take_beside_the_classifiers():
    run = open_growing()
    gold = dict(zip(*run.table("corpus").read([schema.RECORD_ID, schema.GOLD_LABEL]).to_pydict().values(), strict=True))
    rows, found = decisions_of(run), metrics(run)
    shares, right = {}, Counter()
    for row in rows:
        right[row["decided_by"]] += row["label"] == gold[row["record_id"]]
    for who, num in Counter(row["decided_by"] for row in rows).items():
        shares[who] = right[who] / num
        assert found[f"final_accuracy[{who}]"]["value"] == pytest.approx(shares[who])
        assert found[f"share_decided[{who}]"]["value"] == num / len(rows)
    assert found["final_accuracy"]["value"] == pytest.approx(sum(right.values()) / len(rows))
    assert found["final_accuracy"]["low"] < found["final_accuracy"]["value"] < found["final_accuracy"]["high"]
    of_classifier = [row["classifier_label"] == gold[row["record_id"]] for row in rows]
    assert found["classifier_accuracy_all"]["value"] == pytest.approx(sum(of_classifier) / len(rows))
    assert found["final_accuracy"]["value"] > found["classifier_accuracy_all"]["value"]
    labels = Counter(row["label"] for row in rows)
    assert found["share_as_labelled[positive]"]["value"] == labels["positive"] / len(rows)
    answer = " ".join(figures(run)["answer"])
    assert re.search(r"About \d+ of 100 final labels are right by gold", answer)
    assert re.search(r"About \d+ of 100 labels of the classifier alone are right", answer)


def test_the_section_has_the_certificate_the_deciders_the_cost_the_judges_and_the_frontier():
    run = open_growing()
    guaranteed, text = Guaranteed.read(run), section(run)
    certificate = guaranteed.certified.certificates[""]
    row = next(line for line in text.splitlines() if line.startswith("| all |"))
    assert f"| 300 | {guaranteed.certified.populations[''].num_undecided} | 120 |" in row
    assert f"| {certificate.num_kept} | {certificate.num_wrong} | {certificate.max_wrong} |" in row
    asked = {name: guaranteed.manifests[name] for name in ("certification_responses", "escalated")}
    for stage, manifest in zip(("certify", "escalate"), asked.values(), strict=True):
        assert f"| {stage} | {manifest.num_in} | 0 | {manifest.counts['num_prompt_tokens']:,} |" in text
    stages = {stage["stage"]: stage for stage in figures(run)["stages"]}
    assert stages["escalate"]["num_prompt_tokens"] == asked["escalated"].counts["num_prompt_tokens"]
    assert stages["certify"]["wall_seconds"] >= asked["certification_responses"].wall_seconds
    assert "annotator minus classifier" in text
    assert "plots/frontier.svg" in text
    assert "<svg" in read(run, "plots/frontier.svg")


def test_the_frontier_ends_where_the_oracle_decides_all_and_marks_the_certificates_choice():
    run = open_growing()
    final, guaranteed = assess(read_evidence(run)).final, Guaranteed.read(run)
    first, last = final.frontier[0], final.frontier[-1]
    assert (first.num_decided, last.num_decided) == (guaranteed.num_decided_before, 300)
    usable = pc.sum(pc.is_valid(run.table("certificate").read()[schema.ORACLE_LABEL])).as_py() / 120
    assert last.agreement.value == pytest.approx(usable)
    assert first.agreement.value < last.agreement.value
    kept = Counter(row["decided_by"] for row in decisions_of(run))["classifier"] - guaranteed.num_unusable
    assert final.chosen.num_decided == 300 - kept
    assert f"| {final.chosen.num_decided} (chosen) |" in section(run)
    assert f"agreement_at[{last.num_decided}]" in metrics(run)


def test_the_report_is_written_again_when_labels_were_decided_since_and_not_otherwise():
    run = open_growing()
    before = run.table("report").require_manifest()
    assert report(run) == before
    save_answers(run, run.table("certification").read()[schema.TEXT].to_pylist()[:3])
    assert start().table("report").require_manifest().upstream["guarantee"] != before.upstream["guarantee"]


def test_an_escalation_that_was_cut_short_says_what_was_reached_and_what_to_do():
    run = start("guarantee.max_records=5", "guarantee.target=0.9")
    first, second, *_ = figures(run)["answer"]
    bound = run.table("decisions").require_manifest().measures["share_bound"]
    num = run.table("decisions").require_manifest().counts["num_undecided"]
    assert num > 0
    assert bound < 0.9
    assert first.startswith(f"At least {int(bound * 1000) / 10:.1f} %")
    assert second.startswith("The target of 90 % is not reached, because ")
    assert f"{num} records that the classifier is not sure enough of were decided by nobody" in second
    assert "guarantee.max_records" in second


def test_an_escalation_that_the_recipe_forbids_says_so():
    second = figures(start("guarantee.escalate=never", "guarantee.target=0.9"))["answer"][1]
    assert "guarantee.escalate: never; remove it and start the run again" in second


def test_of_categories_the_lowest_is_named():
    run = start("guarantee.per_category=true", "guarantee.target=0.7")
    measures = run.table("decisions").require_manifest().measures
    lowest = min(("positive", "negative"), key=lambda name: measures[f"share_bound.{name}"])
    assert f"that is the figure of {lowest}, the lowest." in figures(run)["answer"][0]
    rows = [line for line in section(run).splitlines() if line.startswith(("| positive | ", "| negative | "))]
    assert len(rows) == 2


def test_while_people_have_not_answered_the_report_says_what_is_missing():
    run = start("guarantee.oracle=people", "guarantee.escalate=never")
    assert run.table("decisions").read_manifest() is None
    first = figures(run)["answer"][0]
    assert first.startswith("Nothing is guaranteed yet: people are to decide 120 more texts of the 120 records")
    assert "`llambert review export --certify`" in first
    assert "Nothing is guaranteed yet" in section(run)
    save_answers(run, run.table("certification").read()[schema.TEXT].to_pylist())
    report(run)
    assert "people have decided the 120 records that were drawn; start the run again" in figures(run)["answer"][0]


def test_with_people_the_guarantee_is_one_of_right_labels():
    waiting = start("guarantee.oracle=people", "guarantee.escalate=never")
    save_answers(waiting, waiting.table("corpus").read()[schema.TEXT].to_pylist())
    run = start("guarantee.oracle=people", "guarantee.escalate=never")
    first = figures(run)["answer"][0]
    assert "of the 300 final labels are right, as people judge it, with probability 95 %: 300 were decided by" in first


def test_nothing_is_promised_of_what_the_annotator_decided_in_peoples_place():
    settings = ("guarantee.oracle=people", "guarantee.escalate=always")
    waiting = start(*settings)
    save_answers(waiting, waiting.table("certification").read()[schema.TEXT].to_pylist())
    run = start(*settings)
    by = Counter(row["decided_by"] for row in decisions_of(run))
    assert by["annotator"] > 0
    guaranteed, (first, second, *_) = Guaranteed.read(run), figures(run)["answer"]
    covered = 300 - by["annotator"] - guaranteed.num_undecided - guaranteed.num_unusable
    certificate = guaranteed.certified.certificates[""]
    assert guaranteed.bound_of_covered == pytest.approx(max(1 - (1 - certificate.share_bound) * 300 / covered, 0))
    assert f"of the {covered} labels that people decided" in first
    assert f"nothing is guaranteed: the annotator decided {by['annotator']} of them" in second
