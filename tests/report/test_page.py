import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from llambert import schema
from llambert.annotation.responses import RESPONSES_VERSION
from llambert.errors import InputError
from llambert.evaluation.evidence import read_evidence
from llambert.evaluation.quality import assess
from llambert.report.page import report, summary
from tests.fixtures.stored_responses import store_responses
from tests.fixtures.synthetic_run import HOSTILE, Plan, write_run


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run with gold on every record, and its report."""
    run = write_run(tmp_path_factory.mktemp("full"), Plan(splits=("train", "test")))
    return run, report(run)


def _read(run, name: str) -> str:
    directory = run.table("report")
    return directory.filesystem.cat_file(directory.path(name)).decode()


def _metrics(run) -> dict[str, dict]:
    return {row["metric"]: row for row in json.loads(_read(run, "metrics.json"))["metrics"]}


def test_the_report_says_in_which_language_negation_is_read(full, tmp_path):
    run = write_run(tmp_path, Plan(mode="generate"))
    report(run)
    assert "Negation and doubt are read in English" in _read(run, "report.html")
    assert "Negation" not in _read(full[0], "report.html")  # probabilities need no reading


def test_a_sample_of_some_splits_speaks_for_these_and_is_compared_with_these(tmp_path):
    settings = {"splits": ("extra", "train")}
    run = write_run(tmp_path, Plan(splits=("train", "test", "extra"), annotator=settings))
    report(run)
    markdown = _read(run, "report.md")
    drawn = (
        "200 records of splits extra, train, drawn uniformly at random from 393 distinct texts (seed 0), were given to"
    )
    assert drawn in markdown
    assert markdown.count("The LLM annotated only records of splits extra, train: ") == 3
    assert "| annotated subset | 95 % interval | splits extra, train |" in markdown
    assert "Of the LLM's own labels, all of splits extra, train," in markdown
    evidence = read_evidence(run)
    records, quality = evidence.records, assess(evidence)
    assert set(quality.silver_by_split) == {"train", "extra"} == set(quality.by_split) - {"test"}
    assert sum(one.num for one in quality.silver_by_split.values()) == quality.silver.accuracy.num
    assert _metrics(run)["silver_accuracy[extra]"]["value"] == quality.silver_by_split["extra"].value
    others = records.num_chars[records.split != records.splits.index("test")]
    assert quality.drift.mean_chars[1] == pytest.approx(others.mean())


def test_a_sample_of_the_whole_corpus_needs_no_such_sentence(full):
    assert "The LLM annotated only records of" not in _read(full[0], "report.md")
    drawn = "200 records of the corpus, drawn uniformly at random from 590 distinct texts (seed 0), were given to"
    assert drawn in _read(full[0], "report.md")


def test_labels_are_joined_by_record_id_not_by_place(full):
    # The labels table of the synthetic run is shuffled: joined by place, accuracy would be a coin's.
    run, _ = full
    assert _metrics(run)["classifier_accuracy_all"]["value"] > 0.85


def test_with_gold_everywhere_the_corrected_share_is_the_gold_share(full):
    run, _ = full
    records = read_evidence(run).records
    row = _metrics(run)["share_corrected[positive]"]
    assert (row["value"], row["low"], row["high"]) == pytest.approx(((records.gold == 0).mean(),) * 3)


def test_metrics_table_has_its_schema_and_the_same_figures_as_the_json(full):
    run, manifest = full
    directory = run.table("report")
    table = pq.read_table(directory.path("metrics.parquet"))
    assert table.schema.remove_metadata().equals(schema.METRICS)
    assert table.to_pylist() == json.loads(_read(run, "metrics.json"))["metrics"]
    assert [part.num_rows for part in manifest.parts if part.name == "metrics.parquet"] == [table.num_rows]
    assert directory.committed_part("metrics.parquet").sha256 == manifest.parts[0].sha256


def test_the_answer_stands_at_the_top_in_plain_words(full):
    run, _ = full
    top = _read(run, "report.md").split("\n## ")[0]
    assert "600 records labelled: " in top
    assert re.search(r"About \d\d of 100 labels are right \(95 % interval", top)
    # 0.1 s a record times 600 records; the run's stages took 25 + 1 + 1 + 1 + 4 seconds.
    assert "It took 32 s; asking the LLM about every record would have taken 1 min" in top


class _Page(HTMLParser):
    """What a browser would fetch or run, and whether the tags nest."""

    VOID = frozenset({"meta", "link", "br", "img", "path", "use", "circle", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "poster"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on"), f"{tag} carries a script: {name}={value}"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_html_page_is_whole_and_asks_nobody_for_anything(full):
    run, _ = full
    content = _read(run, "report.html")
    page = _Page()
    page.feed(content)
    assert page.open == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == 6
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert len(page.ids) == len(set(page.ids)), "two pictures share an id"
    targets = re.findall(r'(?:url\(#|href="#)([^")]+)', content)
    assert targets
    assert set(targets) <= set(page.ids)
    assert not re.search(r"@import|url\((?!#)", content)


def test_a_record_with_markup_stays_text(full):
    run, _ = full
    page = _Page()
    page.feed(_read(run, "report.html"))
    visible = HOSTILE.replace("\u202e", "\\u202e").replace("\x00", "\\u0000")
    assert f"Movie review: {visible}" in "".join(page.text)
    markdown = _read(run, "report.md")
    assert f"````text\nMovie review: {visible}\n````" in markdown, "the fence must be longer than any in the text"


def test_thresholds_are_printed_with_all_their_digits_and_their_promise(full):
    run, _ = full
    found = json.loads(_read(run, "metrics.json"))["quality"]["thresholds"]["0.8"]
    markdown = _read(run, "report.md")
    kept = f"{100 * found['coverage']:.1f} %"
    assert f"| 80 % | {found['threshold']} | {found['num_kept']:,} | {kept} |" in markdown
    assert "broken with a probability of at most 2.5 %" in markdown


def test_figures_are_files_that_the_markdown_links_to(full):
    run, _ = full
    directory = run.table("report")
    links = re.findall(r"\]\((plots/[\w-]+\.svg)\)", _read(run, "report.md"))
    assert len(links) == 6
    assert all(directory.filesystem.exists(directory.path(link)) for link in links)


def test_the_summary_is_short_and_plain(full):
    run, _ = full
    lines = summary(run).splitlines()
    assert len(lines) <= 25
    assert lines[0].startswith("600 records labelled")
    assert lines[-1].endswith("/report.html")
    assert max(map(len, lines[:-1])) <= 100


def test_a_complete_report_is_skipped(full):
    run, manifest = full
    directory = run.table("report")
    before = directory.filesystem.modified(directory.path("report.html"))
    assert report(run) == manifest
    assert directory.filesystem.modified(directory.path("report.html")) == before


def test_without_gold_the_report_says_what_needs_it(tmp_path):
    run = write_run(tmp_path, Plan(gold=0.0))
    report(run)
    markdown = _read(run, "report.md")
    assert "How many of these labels are right cannot be said" in markdown
    assert markdown.count("needs gold labels") >= 5
    assert not any("accuracy" in metric for metric in _metrics(run))
    assert _metrics(run)["silver_agreement"]["value"] > 0
    assert "accuracy unknown" in summary(run)
    page = _Page()
    page.feed(_read(run, "report.html"))
    assert page.open == []


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_a_few_gold_labels_correct_the_shares_with_an_interval(tmp_path, share):
    run = write_run(tmp_path, Plan(num=2_000, gold=share, classifier_accuracy=0.75))
    report(run)
    row = _metrics(run)["share_corrected[positive]"]
    truth = (np.random.default_rng(0).integers(0, 2, 2_000) == 0).mean()  # as write_run draws it
    assert row["low"] < truth < row["high"]
    assert row["low"] < row["value"] < row["high"]
    assert "prediction-powered inference" in _read(run, "report.md")


def test_gold_on_annotated_records_alone_is_said_to_be_too_rosy(tmp_path):
    run = write_run(tmp_path, Plan(num=60, num_annotated=50))
    markdown = report(run) and _read(run, "report.md")
    top = markdown.split("\n## ")[0]
    assert "all 50 gold records were annotated too" in top
    assert "How many of the other labels are right is unknown" in top
    assert "the classifier may have learned from the LLM's labels of them" in top
    assert "About" not in top
    assert "50 records of the corpus, all that could be annotated" in markdown
    assert "drawn uniformly" not in markdown
    assert "accuracy unknown" in summary(run)


@pytest.mark.parametrize("regime", ["gold", "combined"])
def test_where_all_gold_was_trained_on_accuracy_is_unknown_and_no_figure_counts_it(tmp_path, regime):
    run = write_run(tmp_path, Plan(splits=("train",), regime=regime))
    report(run)
    markdown = _read(run, "report.md")
    top = markdown.split("\n## ")[0]
    assert "How many of these labels are right is unknown" in top
    assert f"every record that has one (600; classifier.regime {regime})" in top
    assert "A few hundred records of another split than train, drawn at random and labelled by a person" in top
    assert "of 100 labels" not in top
    assert not any(metric.startswith("classifier_") for metric in _metrics(run))
    assert not {"silver_wrong", "accuracy_difference"} & _metrics(run).keys()
    assert "needs gold labels not learned from" in markdown
    assert "| gold labels that the classifier may have learned from | 600 |" in markdown
    assert "accuracy unknown" in summary(run)
    # The LLM never saw these gold labels: its own may be judged by them.
    assert _metrics(run)["silver_accuracy"]["value"] == pytest.approx(0.8, abs=0.08)


def test_annotated_records_that_the_classifier_did_not_learn_from_judge_it(tmp_path):
    settings = {"splits": ("test",)}
    run = write_run(
        tmp_path, Plan(splits=("train", "test"), regime="gold", num_duplicates=0, num_annotated=300, annotator=settings)
    )
    report(run)
    top = _read(run, "report.md").split("\n## ")[0]
    of = (
        "300 gold records that the LLM saw, but the classifier did not learn from; of split train none could be checked"
    )
    assert of in " ".join(top.split())
    assert "of 100 labels of split test are right" in top


def test_a_headline_of_gold_in_some_splits_speaks_for_these(tmp_path):
    run = write_run(tmp_path, Plan(splits=("train", "test"), regime="combined"))
    report(run)
    top = _read(run, "report.md").split("\n## ")[0]
    assert re.search(r"About \d\d of 100 labels of split test are right", top)
    assert "that the LLM never saw and the classifier did not learn from; of split train none could be checked" in top


def test_a_handful_of_gold_records_is_said_to_be_too_few(tmp_path):
    run = write_run(tmp_path, Plan(num=2_000, gold=0.012))
    num = assess(read_evidence(run)).unseen.accuracy.num
    assert 0 < num < 30
    report(run)
    top = _read(run, "report.md").split("\n## ")[0]
    assert (
        f"How many of these labels are right is hardly known: of only {num} gold records that the LLM never saw" in top
    )
    assert "of 100 labels" not in top


def test_rounding_never_makes_a_headline_of_all(tmp_path):
    run = write_run(tmp_path, Plan(num=6_000, classifier_accuracy=0.9995, seed=3))
    accuracy = assess(read_evidence(run)).unseen.accuracy
    assert 0.995 < accuracy.value < 1
    report(run)
    top = _read(run, "report.md").split("\n## ")[0]
    assert "About 100 of 100" not in top
    assert f"About {100 * accuracy.value:.2f}".rstrip("0")[:9] in top


def test_silver_accuracy_says_how_rejected_answers_are_counted(full):
    run, _ = full
    top = _read(run, "report.md").split("\n## ")[0]
    silver, counted = _metrics(run)["silver_accuracy"], _metrics(run)["silver_accuracy_rejects_wrong"]
    assert counted["value"] == pytest.approx(silver["value"] * 196 / 200)
    assert f"rejected answers (4) are left out, and counted as wrong they make it {100 * counted['value']:.1f} %" in top
    assert "| silver labels, rejects counted as wrong |" in _read(run, "report.md")
    assert "the same, rejects counted as wrong" in summary(run)


def test_calibration_errors_are_printed_beside_those_of_perfect_calibration(full):
    run, _ = full
    metrics, markdown = _metrics(run), _read(run, "report.md")
    for name, title in (("silver_{}", "annotator"), ("classifier_{}_unseen", "classifier")):
        error, calibrated = metrics[name.format("ece")], metrics[name.format("ece_if_calibrated")]
        assert calibrated["low"] < calibrated["value"] < calibrated["high"]
        assert f"| {title} | {100 * error['value']:.1f} % | {100 * calibrated['value']:.1f} % |" in markdown


@pytest.mark.parametrize(("column", "how"), [(None, "uniformly at random"), ("split", "with the shares of each split")])
def test_the_sample_is_described_as_it_was_drawn(tmp_path, column, how):
    run = write_run(tmp_path, Plan(annotator={"stratify_by": column}))
    report(run)
    assert how in _read(run, "report.md")
    assert ("uniformly" in _read(run, "report.md")) == (column is None)


def test_answers_that_were_not_asked_for_again_are_counted_apart(full, tmp_path):
    run = write_run(tmp_path, Plan(num_found=30))
    report(run)
    assert "| answers that were stored already, and not asked for again | 30 |" in _read(run, "report.md")
    assert "stored already" not in _read(full[0], "report.md")


def test_only_an_endpoints_model_is_without_a_content_hash(full, tmp_path):
    run = write_run(tmp_path, Plan())
    responses = run.table("responses")
    named = {"model": "gpt", "model_identity": "gpt"}
    responses.write_manifest(responses.require_manifest().model_copy(update=named))
    report(run)
    assert _read(run, "report.md").count("| gpt (an endpoint's) |") == 1
    assert _read(run, "report.md").count("an endpoint's)") == 1
    assert "an endpoint's)" not in _read(full[0], "report.md")


def test_provenance_names_the_machines_and_what_a_fingerprint_leaves_out(tmp_path):
    run = write_run(tmp_path, Plan())
    labels = run.table("labels")
    counts = {"computed_on.Chip A (AVX512)": 400, "computed_on.Chip B": 200}
    labels.write_manifest(labels.require_manifest().model_copy(update={"counts": counts}))
    report(run)
    markdown = _read(run, "report.md")
    assert "| label: chip | Chip A (AVX512): 400 records |" in markdown
    assert "| label: chip | Chip B: 200 records |" in markdown
    assert "may change the last digits of a result" in markdown


def test_a_report_is_written_again_when_records_were_answered_since(tmp_path):
    run = write_run(tmp_path, Plan(num=60, num_annotated=20))
    first = report(run)
    assert report(run) == first
    silver = run.table("silver")
    silver.write_manifest(silver.require_manifest().model_copy(update={"upstream": {RESPONSES_VERSION: "v1"}}))
    second = report(run)
    assert second != first
    assert second.upstream[RESPONSES_VERSION] == "v1"
    assert report(run) == second


def test_answers_that_came_later_are_evidence(tmp_path):
    run = write_run(tmp_path, Plan(num=60, num_annotated=20))
    ids = run.table("sample").read([schema.RECORD_ID])[schema.RECORD_ID].to_pylist()
    failed = {schema.RESPONSE: None, schema.FINISH_REASON: "error", schema.ERROR: "busy", schema.ERROR_KIND: "passing"}
    rows = [{schema.RECORD_ID: record_id, schema.RESPONSE: " positive"} for record_id in ids]
    store_responses(run, [*(row | failed for row in rows[:10]), *rows[10:]], (10, 20))
    answers = read_evidence(run).answers
    assert (answers.num, answers.finish_reasons) == (20, {"error": 10, "stop": 10})
    assert (answers.response, answers.models) == (None, ["tiny-llm"])
    store_responses(run, rows, (10, 20))
    answers = read_evidence(run).answers
    assert (answers.num, answers.finish_reasons, answers.response) == (20, {"stop": 20}, " positive")


def test_an_annotator_without_probabilities_has_no_reliability(tmp_path):
    run = write_run(tmp_path, Plan(probabilities=False))
    report(run)
    quality = assess(read_evidence(run))
    assert quality.silver.reliability is None
    assert quality.prior is None
    assert "the annotator gave no label probabilities" in _read(run, "report.md")


def test_an_incomplete_stage_is_named(tmp_path):
    run = write_run(tmp_path, Plan(num=60, num_annotated=20))
    labels = run.table("labels")
    labels.filesystem.rm(labels.path("manifest.json"))
    with pytest.raises(InputError, match=r"labels/\w+ is not complete"):
        report(run)
    assert run.table("report").read_manifest() is None


def test_importing_the_report_does_not_load_matplotlib_or_ray():
    program = (
        "import sys, llambert.report.page, llambert.planning.costs;"
        "print([m for m in ('matplotlib', 'sklearn', 'ray', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_report_says_when_the_annotated_subset_and_the_corpus_part(full):
    run, _ = full
    evidence = read_evidence(run)
    assert min(assess(evidence).drift.p_values.values()) > 0.01 / 3
    assert "no difference is significant" in _read(run, "report.md")
    evidence.records.num_chars[evidence.records.is_annotated] += 40
    assert assess(evidence).drift.p_values["text lengths"] < 1e-6


def test_gold_values_that_match_no_category_are_named_with_count_share_and_examples(tmp_path):
    run = write_run(tmp_path, Plan(gold=0.5))
    corpus = run.table("corpus")
    found = corpus.require_manifest()
    counts = {"num_gold": 300, "num_unknown_gold": 100, "unknown_gold.meh": 99, "unknown_gold.?": 1}
    corpus.write_manifest(found.model_copy(update={"counts": counts}))
    report(run)
    sentence = (
        "100 of 400 gold values (25.0%) in column None match no category and count as no label: 'meh' (99), '?' (1)"
    )
    assert _read(run, "report.md").count(sentence) == 2  # in the answer and among the counts
    assert "gold values that match no category" in _read(run, "report.md")
    assert "match no category" in " ".join(summary(run).split())


@pytest.mark.parametrize(
    "names",
    [
        ("$x_1$", "$$"),
        ("x" * 200, "x" * 199 + "y"),
        ("a | b\nc", "<script>alert(1)</script>"),
        ("../..", "\u202e😀`'\""),
    ],
    ids=["formulas", "long", "mark-up", "others"],
)
def test_a_category_of_any_name_has_its_report_with_every_figure(tmp_path, names):
    run = write_run(tmp_path, Plan(categories=names, splits=("train", "test")))
    report(run)
    directory = run.table("report")
    plots = directory.filesystem.ls(directory.path("plots"), detail=False)
    assert len(plots) >= 5
    for path in plots:
        ElementTree.fromstring(directory.filesystem.cat_file(path))
    assert "<script>alert" not in _read(run, "report.html")
    table = [line for line in _read(run, "report.md").splitlines() if line.startswith("| category |")]
    rows = _read(run, "report.md").splitlines()
    for header in table:
        row = rows[rows.index(header) + 2]
        assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", header))
    assert {f"share_as_labelled[{name}]" for name in names} <= _metrics(run).keys()
