"""The sections of the report below its answer."""

from collections.abc import Callable
from typing import Any

import numpy as np

from llambert.annotation.calibration import expected_calibration_error
from llambert.corpora.checks import warnings
from llambert.corpora.gold import NUM_UNKNOWN_GOLD
from llambert.corpora.rows import HIDDEN_FILES
from llambert.evaluation.evidence import TRAINING_RECORD, Evidence
from llambert.evaluation.metrics import ClassFigures, Estimate
from llambert.evaluation.quality import Drift, Evaluation
from llambert.recipe import dump_recipe
from llambert.report import plots
from llambert.report.costs_section import costs_section
from llambert.report.document import Block, Details, Document, Figure, Section, Table, Verbatim
from llambert.report.findings import Findings, answer, interval, percent, points

NEEDS_GOLD = "needs gold labels"
_SUSPECTS_SHOWN = 10
_MAX_TEXT_CHARS = 300
_SIGNIFICANCE = 0.01 / 3  # level of 1 %, with Bonferroni's correction for three tests


def compose(findings: Findings) -> Document:
    """The report of one run."""
    return Document(
        title=f"llambert: {findings.run.recipe.name}",
        answer=answer(findings),
        sections=[
            _question(findings),
            _counts(findings),
            _accuracy(findings),
            _confusion(findings),
            _suspects(findings),
            _probabilities(findings),
            _prior(findings),
            _shares(findings),
            costs_section(findings),
            _drift(findings),
            _provenance(findings),
        ],
    )


def _question(findings: Findings) -> Section:
    run, answers = findings.run, findings.evidence.answers
    annotator = run.recipe.annotator
    words = [[category.name, ", ".join(category.answer_words)] for category in run.task.categories]
    blocks: list[Block] = [
        run.task.question,
        Table(["category", "answer words"], words, left=frozenset({1})),
        f"{answers.num:,} records of {findings.sampled}, drawn {_how_drawn(findings)} (seed {annotator.seed}), were "
        f"given to {', '.join(answers.models) or annotator.model}: engine {annotator.engine}, mode {annotator.mode}.",
    ]
    if answers.prompt is not None:
        blocks += ["One prompt, as the model read it:", Verbatim(answers.prompt)]
        blocks += (
            ["Its response:", Verbatim(answers.response)] if answers.response is not None else ["It had no response."]
        )
    return Section("What was asked", blocks)


def _how_drawn(findings: Findings) -> str:
    column = findings.run.recipe.annotator.stratify_by
    return "uniformly at random" if column is None else f"at random with the shares of each {column}"


def _of_some_splits(findings: Findings, what: str) -> list[Block]:
    """A note on what the figures apply to, if only some splits were annotated."""
    if findings.run.recipe.annotator.splits is None:
        return []
    return [f"The LLM annotated only records of {findings.sampled}: {what}"]


def _counts(findings: Findings) -> Section:
    evidence = findings.evidence
    rows = []
    for table, manifest in evidence.manifests.items():
        rejected = ", ".join(f"{num:,} {reason}" for reason, num in manifest.num_rejected.items() if num) or "none"
        rows.append([findings.run.tables[table].stage, f"{manifest.num_in:,}", f"{manifest.num_kept:,}", rejected])
    answers, records = evidence.answers, evidence.records
    finished = ", ".join(f"{num:,} {reason}" for reason, num in answers.finish_reasons.items()) or "none"
    facts = [
        ["distinct texts in the corpus", f"{int((~records.is_duplicate).sum()):,}"],
        ["records whose text an earlier record has", f"{int(records.is_duplicate.sum()):,}"],
        ["records with a gold label", f"{findings.quality.num_gold:,}"],
        ["gold values that match no category", _count(evidence, "corpus", NUM_UNKNOWN_GOLD)],
        ["sampled for annotation", f"{int(records.is_annotated.sum()):,}"],
        [f"answers, by how they ended ({finished})", f"{answers.num:,}"],
        ["texts truncated in the corpus", _count(evidence, "corpus", "num_truncated")],
        ["texts truncated to fit a prompt", f"{answers.num_truncated:,}"],
        ["texts of which the classifier read the beginning", _count(evidence, "labels", "num_truncated")],
        ["silver labels", f"{len(evidence.silver.label):,}"],
        ["answers without a usable category", f"{len(evidence.rejects.reason):,}"],
        ["labelled by the classifier", f"{int(records.has_label.sum()):,}"],
    ]
    if evidence.manifests["corpus"].counts.get(HIDDEN_FILES):
        facts.append(["hidden files beside the corpus, which are not read", _count(evidence, "corpus", HIDDEN_FILES)])
    blocks: list[Block] = [
        "Every stage's records in and out; what was left out is kept in a separate table, with its reason.",
        *warnings(evidence.manifests["corpus"].counts, findings.run.recipe.corpus),
        Table(["stage", "in", "kept", "left out, by reason"], rows, left=frozenset({3})),
        Table(["count", "records"], facts),
    ]
    if findings.quality.rejected:
        categories = evidence.categories
        rejected_rows = [
            [reason, f"{num:,}", *(percent(shares[c]) if shares else "-" for c in categories)]
            for reason, (num, shares) in findings.quality.rejected.items()
        ]
        shares = [percent(share.raw) for share in findings.quality.shares]
        rejected_rows.append(["the whole corpus", f"{int(records.has_label.sum()):,}", *shares])
        header = ["rejected answers", "records", *(f"labelled {c}" for c in categories)]
        blocks.append(
            Table(header, rejected_rows, "What the classifier calls the records whose answers were rejected:")
        )
    if findings.run.recipe.annotator.mode == "generate":
        blocks.append(
            "Answers are read by rule. Negation and doubt are read in English; an answer with a negation word of "
            "another language is rejected rather than guessed."
        )
    return Section("Counts through every stage", blocks)


def _count(evidence: Evidence, table: str, name: str) -> str:
    num = evidence.manifests[table].counts.get(name)
    return "-" if num is None else f"{num:,}"


def _accuracy(findings: Findings) -> Section:
    quality = findings.quality
    rows = [
        _estimate_row("silver labels against gold (annotated records)", _accuracy_of(quality.silver)),
        _estimate_row("classifier against gold, records never annotated", _accuracy_of(quality.unseen)),
        _estimate_row("classifier against gold, all records", _accuracy_of(quality.whole)),
        _estimate_row("classifier (never annotated) minus silver labels", quality.difference, points),
        _estimate_row("agreement of classifier and silver labels (proves neither)", quality.agreement),
    ]
    rows += [_estimate_row(f"silver labels, split {name}", value) for name, value in quality.silver_by_split.items()]
    rows += [_estimate_row(f"split {name}, records never annotated", value) for name, value in quality.by_split.items()]
    blocks: list[Block] = [
        Table(["share that is right", "value", "95 % interval", "records"], rows),
        "Records never annotated exclude shots shown to the annotator, records whose gold label the classifier was "
        "trained on, and every record with the text of one of these. Duplicate texts count once. Intervals: Wilson "
        "score for shares, Newcombe's hybrid score for the difference (percentage points).",
        *_of_some_splits(findings, "the accuracy of the silver labels is that on these splits, not on the corpus."),
    ]
    if quality.unseen is None:
        blocks.insert(0, f"Accuracy {NEEDS_GOLD} on records that were not annotated; agreement does not show it.")
    return Section("How many labels are right", blocks)


def _confusion(findings: Findings) -> Section:
    quality, categories = findings.quality, findings.evidence.categories
    blocks: list[Block] = []
    for name, title, evaluation in (
        ("annotator", "annotator (silver labels)", quality.silver),
        ("classifier", "classifier (records never annotated)", quality.unseen),
    ):
        if evaluation is None:
            blocks.append(f"Confusion, precision and recall of the {title}: {NEEDS_GOLD} on these records.")
            continue
        svg = plots.confusion(f"confusion-{name}", evaluation.matrix, categories, name)
        blocks.append(
            Figure(f"confusion-{name}", svg, f"Confusion of the {title}: records, and share of the gold category.")
        )
        blocks.append(
            Table(
                ["category", "precision", "recall", "F1", "gold records"],
                [_class_row(figures) for figures in evaluation.classes],
                f"{title.capitalize()}; 95 % Wilson intervals in brackets; macro F1 {evaluation.macro_f1:.3f}:",
            )
        )
    return Section("Which labels are wrong", blocks)


def _suspects(findings: Findings) -> Section:
    suspects = findings.suspects
    by_label = ", ".join(f"{num:,} {label}" for label, num in suspects.by_label.items() if num) or "none"
    blocks: list[Block] = [
        f"{suspects.num:,} of {suspects.num_silver:,} silver labels ({by_label}) are not what the classifier says, "
        "although it learned from them. suspects.parquet beside this report lists them, the most certain first."
    ]
    if suspects.base_rate is not None and suspects.precision is not None:
        rows = [_estimate_row("all silver labels: a random pick", suspects.base_rate)]
        rows += [_estimate_row(f"the first {num:,} suspects", share) for num, share in suspects.precision_at.items()]
        rows.append(_estimate_row("all suspects", suspects.precision))
        blocks.append(Table(["share that is wrong by gold", "value", "95 % interval", "records"], rows))
    shown = [
        [row["label"], row["suggested_label"], f"{row['score']:.3f}", row["text"][:_MAX_TEXT_CHARS]]
        for row in suspects.rows.slice(0, _SUSPECTS_SHOWN).to_pylist()
    ]
    if shown:
        header = ["silver label", "classifier", "score", "text"]
        blocks.append(Details(f"The first {len(shown)}", [Table(header, shown, left=frozenset({1, 3}))]))
    return Section("Silver labels that are probably wrong", blocks)


def _probabilities(findings: Findings) -> Section:
    quality, records = findings.quality, findings.evidence.records
    diagrams = {
        title: evaluation.reliability
        for title, evaluation in (("annotator", quality.silver), ("classifier", quality.unseen))
        if evaluation is not None and evaluation.reliability is not None
    }
    blocks: list[Block] = []
    if diagrams:
        svg = plots.reliability_diagram("reliability", diagrams)
        caption = "Reliability: each point is the same number of records; the dotted line is perfect calibration."
        blocks.append(Figure("reliability", svg, caption))
        errors = [[title, percent(expected_calibration_error(bins))] for title, bins in diagrams.items()]
        blocks.append(Table(["expected calibration error", "value"], errors))
    else:
        blocks.append(f"Reliability of the probabilities {NEEDS_GOLD}.")
    unseen = records.is_unseen
    if unseen.any():
        right = records.gold[unseen] == records.label[unseen]
        svg = plots.score_distribution("scores", records.score[unseen], right)
        blocks.append(Figure("scores", svg, "Scores of the classifier on gold records never annotated."))
    else:
        svg = plots.score_distribution("scores", records.score[records.has_label], None)
        blocks.append(Figure("scores", svg, "Scores of the classifier over the whole corpus."))
    if quality.coverage:
        svg = plots.accuracy_by_coverage("coverage", quality.coverage)
        blocks.append(Figure("coverage", svg, "Accuracy of the most certain labels only; band: 95 % interval."))
        rows = [
            [percent(wanted, 0), *([f"{p.threshold:.3f}", percent(p.coverage)] if p else ["not reached", "-"])]
            for wanted, p in quality.thresholds.items()
        ]
        caption = "The lowest score that reaches the wanted accuracy (lower 95 % bound), and the records it keeps:"
        blocks.append(Table(["wanted accuracy", "score from", "records kept"], rows, caption))
    return Section("How far the probabilities can be trusted", blocks)


def _prior(findings: Findings) -> Section:
    prior, mode = findings.quality.prior, findings.run.recipe.parse.prior_correction
    title = "What the prior correction did"
    if prior is None:
        reason = "the annotator gave no label probabilities"
        if findings.evidence.silver.raw_label is not None:
            reason = f"its effect on accuracy {NEEDS_GOLD} on annotated records"
        return Section(title, [f"Prior correction: {mode}; {reason}."])
    rows = [
        _estimate_row("silver labels from the raw probabilities", prior.raw),
        _estimate_row("silver labels as used", prior.corrected),
        _estimate_row("gain (same records; Bonett-Price interval)", prior.gain, points),
    ]
    text = f"Prior correction: {mode}. It changed {prior.num_changed:,} silver labels."
    return Section(title, [text, Table(["share that is right", "value", "95 % interval", "records"], rows)])


def _shares(findings: Findings) -> Section:
    quality = findings.quality
    rows = [
        [
            share.category,
            f"{share.num_labelled:,}",
            percent(share.raw),
            *([percent(share.corrected.value), interval(share.corrected)] if share.corrected else ["-", "-"]),
            "-" if share.silver is None else percent(share.silver),
        ]
        for share in quality.shares
    ]
    header = ["category", "records", "as labelled", "corrected", "95 % interval", "among silver labels"]
    corrected = next((share.corrected for share in quality.shares if share.corrected), None)
    if corrected is None:
        note = f"Shares as labelled carry the classifier's bias; correcting them needs {quality.shares_need}."
    elif corrected.num == sum(share.num_labelled for share in quality.shares):
        note = "Every labelled record has gold: the corrected shares are counted, not estimated."
    else:
        note = (
            f"Corrected by {corrected.num:,} gold records with prediction-powered inference (Angelopoulos et al. 2023, "
            "power-tuned); valid if these records are a random sample of the corpus."
        )
    of_splits = _of_some_splits(findings, "shares among silver labels are of these splits, the others of the corpus.")
    return Section("How much of the corpus each category is", [Table(header, rows), note, *of_splits])


def _drift(findings: Findings) -> Section:
    drift = findings.quality.drift
    rows = [
        [f"labelled {category}", percent(among.value), interval(among), percent(whole)]
        for category, (among, whole) in drift.label_shares.items()
    ]
    rows += [
        ["mean score", f"{drift.mean_score[0]:.3f}", "", f"{drift.mean_score[1]:.3f}"],
        ["median text length (characters)", f"{drift.median_chars[0]:,.0f}", "", f"{drift.median_chars[1]:,.0f}"],
        ["mean text length (characters)", f"{drift.mean_chars[0]:,.1f}", "", f"{drift.mean_chars[1]:,.1f}"],
    ]
    splits = findings.run.recipe.annotator.splits
    header = ["", "annotated subset", "95 % interval", "whole corpus" if splits is None else findings.sampled]
    of_splits = _of_some_splits(findings, "it is compared with these splits; of the others it says nothing.")
    return Section("The annotated subset beside the corpus", [Table(header, rows), _drift_summary(drift), *of_splits])


def _drift_summary(drift: Drift) -> str:
    if not drift.p_values:
        return "All records were annotated, or none: there is nothing to compare."
    significant = {what: p_value for what, p_value in drift.p_values.items() if p_value < _SIGNIFICANCE}
    if not significant:
        return "The annotated subset looks like a random subset of the corpus: no difference is significant."
    named = ", ".join(f"{what} ({p_value:.1g})" for what, p_value in significant.items())
    note = f"Significant differences, with p-values in brackets: {named}."
    if "scores" in significant:
        note += " The classifier is more certain of records that it was trained on."
    return note + " The sample was random: check what is never sampled, above all duplicates."


def _provenance(findings: Findings) -> Section:
    evidence, run = findings.evidence, findings.run
    rows = []
    for table, manifest in evidence.manifests.items():
        model = " ".join(part for part in (manifest.model, manifest.model_identity) if part) or "-"
        completed = manifest.completed_at[:16].replace("T", " ")
        rows.append([run.tables[table].stage, manifest.fingerprint, manifest.code_version, completed, model])
    header = ["stage", "fingerprint", "llambert", "completed (UTC)", "model and content hash"]
    blocks: list[Block] = [
        Table(header, rows, left=frozenset({1, 2, 3, 4})),
        Details("How the classifier was trained", _training(evidence.training_record)),
        Details("The resolved recipe", [Verbatim(dump_recipe(run.recipe))]),
    ]
    return Section("Where this comes from", blocks)


def _training(record: dict[str, Any]) -> list[Block]:
    """The figures of each epoch and the software versions; the rest stays in the training record's file."""
    blocks: list[Block] = []
    if epochs := record.get("epochs"):
        header = list(dict.fromkeys(key for epoch in epochs for key in epoch if np.isscalar(epoch[key])))
        rows = [[_shown(epoch.get(key)) for key in header] for epoch in epochs]
        blocks.append(Table([name.replace("_", " ") for name in header], rows, "Held-out figures after each epoch:"))
    if versions := [[name, str(version)] for name, version in record.get("versions", {}).items()]:
        blocks.append(Table(["software", "version"], versions))
    return blocks or [f"See {TRAINING_RECORD} of the checkpoint."]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _accuracy_of(evaluation: Evaluation | None) -> Estimate | None:
    return None if evaluation is None else evaluation.accuracy


def _estimate_row(name: str, estimate: Estimate | None, show: Callable[[float], str] = percent) -> list[str]:
    if estimate is None:
        return [name, NEEDS_GOLD, "-", "-"]
    low, high = estimate.bounds
    bounds = interval(estimate) if show is percent else f"{show(low)} to {show(high)}"
    return [name, show(estimate.value), bounds, f"{estimate.num:,}"]


def _class_row(figures: ClassFigures) -> list[str]:
    estimates = (figures.precision, figures.recall)
    shares = [f"{percent(share.value)} ({interval(share)})" if share else "-" for share in estimates]
    return [figures.category, *shares, f"{figures.f1:.3f}", f"{figures.num_gold:,}"]
