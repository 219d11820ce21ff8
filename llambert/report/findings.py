"""All that was computed about a run, and its summary in plain words."""

from dataclasses import dataclass

from llambert.annotation.splits import format_splits
from llambert.corpora.checks import unmatched_gold
from llambert.evaluation.evidence import Evidence
from llambert.evaluation.guarantee_sentence import guarantee_sentences
from llambert.evaluation.guaranteed import TABLES
from llambert.evaluation.metrics import Estimate
from llambert.evaluation.quality import Quality
from llambert.evaluation.suspects import Suspects
from llambert.planning.costs import Comparison, Prices, StageCost, format_duration
from llambert.planning.forecast import Pilot
from llambert.report.estimates import interval, of_100, percent
from llambert.run import Run
from llambert.storage.manifest import Manifest

_FEW_RECORDS = 30
"""Fewer than so many gold records are too few to speak for all the others."""
_SPLITS_NAMED = 5


@dataclass(frozen=True)
class Findings:
    """All that was computed about a run."""

    run: Run
    evidence: Evidence
    quality: Quality
    costs: dict[str, StageCost]
    """Table -> what its stage took."""
    comparison: Comparison | None
    prices: Prices
    suspects: Suspects
    pilot: Pilot | None
    """The measurements of the plan, if one was made before the run."""

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Of the tables that the report shows, in the order of the method: those of a guarantee come last."""
        guaranteed = self.evidence.guaranteed
        of_guarantee = guaranteed.manifests if guaranteed else {}
        return self.evidence.manifests | {name: of_guarantee[name] for name in TABLES if name in of_guarantee}

    @property
    def sampled(self) -> str:
        """What the annotated sample was drawn from: ``the corpus``, or some splits."""
        splits = self.run.recipe.annotator.splits
        return "the corpus" if splits is None else format_splits(splits)


def answer(findings: Findings) -> list[str]:
    """The sentences at the top: what is guaranteed, the result, its accuracy, and the time it took."""
    shares = sorted(findings.quality.shares, key=lambda share: -share.raw)
    num = sum(share.num_labelled for share in shares)
    named = ", ".join(f"{percent(share.raw)} {share.category}" for share in shares[:5])
    if len(shares) > 5:
        named += f" and {len(shares) - 5} more categories"
    unmatched = unmatched_gold(findings.evidence.manifests["corpus"].counts, findings.run.recipe.corpus)
    warnings = [unmatched] if unmatched else []
    guaranteed = findings.evidence.guaranteed
    promise = guarantee_sentences(guaranteed) if guaranteed else []
    return [*promise, f"{num:,} records labelled: {named}.", _trust(findings), *warnings, _duration(findings)]


def _trust(findings: Findings) -> str:
    parts = [_final_accuracy(findings), _classifier_accuracy(findings), _annotator_accuracy(findings)]
    return " ".join(part for part in parts if part)


def _final_accuracy(findings: Findings) -> str:
    """Of a certified run's final labels, by gold; empty without."""
    final = findings.quality.final
    if final is None or final.whole is None or final.whole.num < _FEW_RECORDS:
        return ""
    others = " that people did not decide" if final.has_peoples else ""
    return (
        f"About {of_100(final.whole.value)} of 100 final labels{others} are right by gold (95 % interval "
        f"{interval(final.whole)}), measured on {final.whole.num:,} gold records."
    )


def _labels(findings: Findings) -> str:
    """What the sentences on the classifier are about: the labels, unless others were decided in their place."""
    return "labels" if findings.quality.final is None else "labels of the classifier alone"


def _classifier_accuracy(findings: Findings) -> str:
    """How many labels are right: never more than the records that can judge them say."""
    quality, records, recipe = findings.quality, findings.evidence.records, findings.run.recipe.classifier
    learned_gold = " and the classifier did not learn from" if recipe.learns_gold else ""
    if quality.unseen is not None:
        return _measured(findings, quality.unseen.accuracy, f"that the LLM never saw{learned_gold}")
    if quality.unlearned is not None:
        return _measured(findings, quality.unlearned, "that the LLM saw, but the classifier did not learn from")
    if quality.whole is None:
        return _unknown(findings)
    accuracy = quality.whole.accuracy
    others = " that the classifier did not learn from" if records.is_trained_on_gold.any() else ""
    return (
        f"How many of the other labels are right is unknown: all {accuracy.num:,} gold records{others} were annotated "
        "too, and the classifier may have learned from the LLM's labels of them. Of their labels "
        f"{percent(accuracy.value)} are right (95 % interval {interval(accuracy)}); of others it may be fewer. "
        f"{_advice('that were not annotated')}"
    )


def _measured(findings: Findings, accuracy: Estimate, whose: str) -> str:
    labels = _labels(findings)
    checked, unchecked = _checked_splits(findings)
    if accuracy.num < _FEW_RECORDS:
        return (
            f"How many of these {labels} are right is hardly known: of only {accuracy.num:,} gold records {whose} "
            f"{round(accuracy.value * accuracy.num):,} are labelled right (95 % interval {interval(accuracy)}). "
            f"{_advice('like these')}"
        )
    of_splits = f" of {checked}" if unchecked else ""
    but = f"; of {unchecked} none could be checked" if unchecked else ""
    return (
        f"About {of_100(accuracy.value)} of 100 {labels}{of_splits} are right (95 % interval {interval(accuracy)}), "
        f"measured on {accuracy.num:,} gold records {whose}{but}."
    )


def _checked_splits(findings: Findings) -> tuple[str, str]:
    """The splits in which gold judges labels of the classifier, and the other labelled ones; empty if none."""
    records = findings.evidence.records

    def named(codes: set[int]) -> str:
        names = tuple(sorted(records.splits[code] for code in codes))
        return format_splits(names) if 0 < len(names) <= _SPLITS_NAMED else f"{len(names)} splits" if names else ""

    judges = records.is_unseen if records.is_unseen.any() else records.is_unlearned
    checked, labelled = set(records.split[judges].tolist()), set(records.split[records.has_label].tolist())
    return named(checked), named(labelled - checked)


def _unknown(findings: Findings) -> str:
    num_gold, recipe = findings.quality.num_gold, findings.run.recipe.classifier
    how_many = f"How many of these {_labels(findings)} are right"
    if not num_gold:
        return f"{how_many} cannot be said: the corpus has no gold labels. {_advice()}"
    if not findings.evidence.records.is_trained_on_gold.any():
        return f"{how_many} is unknown: no record with a gold label has one. {_advice()}"
    return (
        f"{how_many} is unknown: the classifier may have learned from the gold label of "
        f"every record that has one ({num_gold:,}; classifier.regime {recipe.regime}). "
        f"{_advice('of another split than train')}"
    )


def _advice(whose: str = "") -> str:
    return (
        f"A few hundred records{' ' + whose if whose else ''}, drawn at random and labelled by a person, would show it."
    )


def _annotator_accuracy(findings: Findings) -> str:
    """Of the LLM's usable answers, and what became of the others; empty without gold on annotated records."""
    silver, with_rejects = findings.quality.silver, findings.quality.silver_rejects_wrong
    if with_rejects is None:
        return ""
    where = "" if findings.run.recipe.annotator.splits is None else f", all of {findings.sampled},"
    if silver is None:
        return f"None of the LLM's {with_rejects.num:,} answers about gold records{where} is usable."
    accuracy = silver.accuracy
    share = percent(accuracy.value)
    if accuracy.num < _FEW_RECORDS:
        share = f"only {accuracy.num:,} could be checked: {round(accuracy.value * accuracy.num):,}"
    text = f"Of the LLM's own labels{where} {share} are right"
    if num := with_rejects.num - accuracy.num:
        counted = percent(with_rejects.value)
        text += f"; rejected answers ({num:,}) are left out, and counted as wrong they make it {counted}"
    return f"{text}."


def _duration(findings: Findings) -> str:
    total = sum(cost.wall_seconds for cost in findings.costs.values())
    text = f"It took {format_duration(total)}"
    comparison = findings.comparison
    if comparison is None:
        return text + "."
    alternative = format_duration(comparison.llm_seconds)
    if comparison.speed_up >= 1:
        speed_up = f"{comparison.speed_up:.1f} times that"
        text += f"; asking the LLM about every record would have taken {alternative}, {speed_up}."
    else:
        text += f"; asking the LLM about every record would have taken only {alternative}: the corpus is small."
    by_classifier = format_duration(comparison.label_seconds_per_million)
    by_llm = format_duration(comparison.llm_seconds_per_million)
    return (
        f"{text} Each further million such records takes the classifier {by_classifier} "
        f"and would take the LLM {by_llm} ({comparison.speed_up_per_record:.1f} times that)."
    )
