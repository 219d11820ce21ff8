"""The sections of the report below its answer."""

import numpy as np

from llambert.annotation.responses import NUM_FOUND
from llambert.annotation.sampling import Exclusion
from llambert.corpora.checks import warnings
from llambert.corpora.gold import NUM_UNKNOWN_GOLD
from llambert.corpora.rows import HIDDEN_FILES
from llambert.evaluation.evidence import Evidence
from llambert.evaluation.metrics import Estimate
from llambert.evaluation.quality import Drift, Evaluation
from llambert.evaluation.thresholds import FALSE_PROMISES, ScoreThreshold
from llambert.report import plots
from llambert.report.costs_section import costs_section
from llambert.report.document import Block, Document, Figure, Section, Table, Verbatim
from llambert.report.estimates import NEEDS_GOLD, estimate_row, interval, of_100, percent, points
from llambert.report.findings import Findings, answer
from llambert.report.growth_section import growth_section, growth_sentence
from llambert.report.guarantee_section import guarantee_section
from llambert.report.provenance_section import provenance_section
from llambert.report.wrong_labels import confusion_section, suspects_section

_SIGNIFICANCE = 0.01 / 3  # level of 1 %, with Bonferroni's correction for three tests


def compose(findings: Findings) -> Document:
    """The report of one run."""
    return Document(
        title=f"llambert: {findings.run.recipe.name}",
        answer=[*answer(findings), *growth_sentence(findings)],
        sections=[
            _question(findings),
            _counts(findings),
            *growth_section(findings),
            *guarantee_section(findings),
            _accuracy(findings),
            confusion_section(findings),
            suspects_section(findings),
            _probabilities(findings),
            _prior(findings),
            _shares(findings),
            costs_section(findings),
            _drift(findings),
            provenance_section(findings),
        ],
    )


def _question(findings: Findings) -> Section:
    run, answers = findings.run, findings.evidence.answers
    annotator = run.recipe.annotator
    words = [[category.name, ", ".join(category.answer_words)] for category in run.task.categories]
    blocks: list[Block] = [
        run.task.question,
        Table(["category", "answer words"], words, left=frozenset({1})),
        f"{answers.num:,} records of {findings.sampled}, {_how_drawn(findings)}, were given to "
        f"{', '.join(answers.models) or annotator.model}: engine {annotator.engine}, mode {annotator.mode}.",
    ]
    if answers.prompt is not None:
        blocks += ["One prompt, as the model read it:", Verbatim(answers.prompt)]
        blocks += (
            ["Its response:", Verbatim(answers.response)] if answers.response is not None else ["It had no response."]
        )
    return Section("What was asked", blocks)


def _how_drawn(findings: Findings) -> str:
    """What was done: where no record was left over, none was drawn."""
    annotator, sample = findings.run.recipe.annotator, findings.evidence.manifests["sample"]
    num_left = sample.num_rejected.get(Exclusion.NOT_SAMPLED, 0)
    if not num_left:
        return "all that could be annotated (neither copies of an earlier text nor shots)"
    column = annotator.stratify_by
    how = "uniformly at random" if column is None else f"at random with the shares of each {column}"
    return f"drawn {how} from {sample.num_kept + num_left:,} distinct texts (seed {annotator.seed})"


def _of_some_splits(findings: Findings, what: str) -> list[Block]:
    """A note on what the figures apply to, if only some splits were annotated."""
    if findings.run.recipe.annotator.splits is None:
        return []
    return [f"The LLM annotated only records of {findings.sampled}: {what}"]


def _counts(findings: Findings) -> Section:
    evidence = findings.evidence
    rows = []
    for table, manifest in findings.manifests.items():
        rejected = ", ".join(f"{num:,} {reason}" for reason, num in manifest.num_rejected.items() if num) or "none"
        rows.append([findings.run.tables[table].stage, f"{manifest.num_in:,}", f"{manifest.num_kept:,}", rejected])
    answers, records = evidence.answers, evidence.records
    finished = ", ".join(f"{num:,} {reason}" for reason, num in answers.finish_reasons.items()) or "none"
    facts = [
        ["distinct texts in the corpus", f"{int((~records.is_duplicate).sum()):,}"],
        ["records whose text an earlier record has", f"{int(records.is_duplicate.sum()):,}"],
        ["records with a gold label", f"{findings.quality.num_gold:,}"],
        *([["of these, saved answers of people", f"{records.num_saved_gold:,}"]] if records.num_saved_gold else []),
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
    if num := records.num_saved_gold:
        facts.append(["of these, saved answers of people", f"{num:,}"])
    if num := records.num_saved_differ:
        facts.append(["texts whose gold label, which counts, differs from people's saved answers", f"{num:,}"])
    if num := int((records.has_gold & records.is_trained_on_gold).sum()):
        facts.append(["gold labels that the classifier may have learned from", f"{num:,}"])
    if evidence.manifests["responses"].counts.get(NUM_FOUND):
        facts.append(
            ["answers that were stored already, and not asked for again", _count(evidence, "responses", NUM_FOUND)]
        )
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
        labelled = records.label[records.has_label]
        whole = np.bincount(labelled, minlength=len(categories)) / max(1, len(labelled))
        rejected_rows.append(["the whole corpus", f"{len(labelled):,}", *map(percent, whole.tolist())])
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
    quality, records = findings.quality, findings.evidence.records
    is_learned = bool(records.is_trained_on_gold.any())
    need = f"{NEEDS_GOLD} not learned from" if is_learned else NEEDS_GOLD
    rows = [
        *_final_rows(findings),
        estimate_row("silver labels", _accuracy_of(quality.silver)),
        estimate_row("silver labels, rejects counted as wrong", quality.silver_rejects_wrong),
        estimate_row("classifier, records never seen by the LLM", _accuracy_of(quality.unseen), need=need),
        estimate_row("classifier, records not learned from", quality.unlearned, need=need),
        estimate_row("classifier, annotated records too", _accuracy_of(quality.whole), need=need),
        estimate_row("classifier (never seen) minus silver labels", quality.difference, points, need),
        estimate_row("agreement of classifier and silver labels (proves neither)", quality.agreement),
    ]
    rows += [estimate_row(f"silver labels, split {name}", value) for name, value in quality.silver_by_split.items()]
    rows += [estimate_row(f"classifier (never seen), split {name}", value) for name, value in quality.by_split.items()]
    blocks: list[Block] = [
        Table(["share that is right", "value", "95 % interval", "records"], rows),
        "Right is what the gold label says. The LLM saw a record if it annotated one with the same text or was shown "
        "one as a shot. No figure of the classifier counts a text whose gold label it may have learned from; that with "
        "annotated records counts texts whose silver labels it learned from. Silver labels are those of usable "
        "answers; texts that were shots, or whose gold label fitted the prior correction, do not count. Duplicates "
        "count once. The figures hold for other records as far as the gold records are like them.",
        "Intervals: Wilson score for shares, Newcombe's hybrid score for the difference (percentage points).",
        *_of_some_splits(findings, "the accuracy of the silver labels is that on these splits, not on the corpus."),
    ]
    if num := int((records.has_gold & ~records.has_label & ~records.is_duplicate).sum()):
        blocks.append(f"Gold records that the classifier could not label count in none of its figures: {num:,}.")
    if quality.unseen is None:
        blocks.insert(0, f"Accuracy {need} on records that were not annotated; agreement does not show it.")
    return Section("How many labels are right", blocks)


def _final_rows(findings: Findings) -> list[list[str]]:
    """Of a certified run the final labels, and those that each has decided."""
    if (final := findings.quality.final) is None:
        return []
    deciders = {"classifier": "final labels, kept from the classifier", "annotator": "final labels, by the annotator"}
    need = f"{NEEDS_GOLD} of each"
    which = "final labels that people did not decide" if final.has_peoples else "final labels"
    rows = [estimate_row(f"{which}, weighted by who decided them", final.whole, need=need)]
    return [*rows, *(estimate_row(deciders[who], share) for who, share in final.by_decider.items())]


def _probabilities(findings: Findings) -> Section:
    quality, records = findings.quality, findings.evidence.records
    diagrams = {
        title: evaluation.reliability
        for title, evaluation in _judged(findings).items()
        if evaluation is not None and evaluation.reliability is not None
    }
    blocks: list[Block] = []
    if diagrams:
        svg = plots.reliability_diagram("reliability", diagrams)
        caption = (
            "Reliability: each point is about the same number of records, those of one probability together; the "
            "dotted line is perfect calibration."
        )
        blocks.append(Figure("reliability", svg, caption))
        blocks.append(_calibration(findings))
    else:
        blocks.append(f"Reliability of the probabilities {NEEDS_GOLD}.")
    unseen = records.is_unseen
    if unseen.any():
        right = records.gold[unseen] == records.label[unseen]
        svg = plots.score_distribution("scores", records.score[unseen], right)
        blocks.append(Figure("scores", svg, "Scores of the classifier on gold records that the LLM never saw."))
    else:
        svg = plots.score_distribution("scores", records.score[records.has_label], None)
        blocks.append(Figure("scores", svg, "Scores of the classifier over the whole corpus."))
    if quality.coverage:
        svg = plots.accuracy_by_coverage("coverage", quality.coverage)
        blocks.append(Figure("coverage", svg, "Accuracy of the most certain labels only; band: 95 % interval."))
        blocks.append(_thresholds(quality.thresholds))
    return Section("How far the probabilities can be trusted", blocks)


def _judged(findings: Findings) -> dict[str, Evaluation | None]:
    return {"annotator": findings.quality.silver, "classifier": findings.quality.unseen}


def _calibration(findings: Findings) -> Table:
    rows = [
        [title, percent(error.value), percent(error.if_calibrated), f"{of_100(error.low, 1)}–{of_100(error.high, 1)} %"]
        for title, evaluation in _judged(findings).items()
        if evaluation is not None and (error := evaluation.calibration) is not None
    ]
    header = ["expected calibration error", "value", "if perfectly calibrated", "95 % of such cases"]
    caption = "Mean gap between stated probability and share right, in 15 bins of equal mass; chance alone makes some:"
    return Table(header, rows, caption)


def _thresholds(thresholds: dict[float, ScoreThreshold | None]) -> Table:
    rows = []
    for wanted, found in thresholds.items():
        cells = ["not reached", "-", "-", "-"]
        if found is not None:
            right = f"{percent(found.accuracy)} of {found.num_gold:,}"
            cells = [str(found.threshold), f"{found.num_kept:,}", percent(found.coverage), right]
        rows.append([percent(wanted, 0), *cells])
    caption = (
        "Which labels to keep for a wanted accuracy: those with a score >= the threshold, digits as printed, which are "
        "exactly the records stated. Each line is a promise about records like the gold ones that were never "
        f"annotated, each text once; it is broken with a probability of at most {percent(FALSE_PROMISES)} (exact "
        "binomial tests from the highest scores downwards, ended by the first failure):"
    )
    header = ["wanted accuracy", "threshold", "records kept", "share kept", "right among gold kept"]
    return Table(header, rows, caption)


def _prior(findings: Findings) -> Section:
    prior, mode = findings.quality.prior, findings.run.recipe.parse.prior_correction
    title = "What the prior correction did"
    if prior is None:
        reason = "the annotator gave no label probabilities"
        if findings.evidence.silver.raw_label is not None:
            reason = f"its effect on accuracy {NEEDS_GOLD} on annotated records"
        return Section(title, [f"Prior correction: {mode}; {reason}."])
    rows = [
        estimate_row("silver labels from the raw probabilities", prior.raw),
        estimate_row("silver labels as used", prior.corrected),
        estimate_row("gain (same records; Bonett-Price interval)", prior.gain, points),
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
    elif all(share.corrected and share.corrected.low == share.corrected.high for share in quality.shares):
        note = "Every labelled text has gold: the corrected shares are counted, not estimated."
    else:
        note = (
            f"Corrected by {corrected.num:,} distinct gold texts with stratified prediction-powered inference (Fisch "
            "et al. 2024) and score intervals; valid if the gold records are a random sample of the corpus. The shares "
            "are of all records, copies included, and sum to one; copies of one text count as one observation."
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
        return "Between the annotated subset and the other records no difference is significant."
    named = ", ".join(f"{what} ({p_value:.1g})" for what, p_value in significant.items())
    note = f"Significant differences, with p-values in brackets: {named}."
    if "scores" in significant:
        note += " The classifier is more certain of records that it was trained on."
    return note + " The sample was drawn at random: check what is never sampled, above all duplicates."


def _accuracy_of(evaluation: Evaluation | None) -> Estimate | None:
    return None if evaluation is None else evaluation.accuracy
