"""All that was computed about a run, and its summary in plain words."""

from dataclasses import dataclass

from llambert.annotation.splits import format_splits
from llambert.corpora.checks import unmatched_gold
from llambert.evaluation.evidence import Evidence
from llambert.evaluation.metrics import Estimate
from llambert.evaluation.quality import Quality
from llambert.evaluation.suspects import Suspects
from llambert.planning.costs import Comparison, Prices, StageCost, format_duration
from llambert.planning.forecast import Pilot
from llambert.run import Run


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
    def sampled(self) -> str:
        """What the annotated sample was drawn from: ``the corpus``, or some splits."""
        splits = self.run.recipe.annotator.splits
        return "the corpus" if splits is None else format_splits(splits)


def answer(findings: Findings) -> list[str]:
    """The sentences at the top: the result, its accuracy, and the time it took."""
    shares = sorted(findings.quality.shares, key=lambda share: -share.raw)
    num = sum(share.num_labelled for share in shares)
    named = ", ".join(f"{percent(share.raw)} {share.category}" for share in shares[:5])
    if len(shares) > 5:
        named += f" and {len(shares) - 5} more categories"
    unmatched = unmatched_gold(findings.evidence.manifests["corpus"].counts, findings.run.recipe.corpus)
    warnings = [unmatched] if unmatched else []
    return [f"{num:,} records labelled: {named}.", _trust(findings), *warnings, _duration(findings)]


def _trust(findings: Findings) -> str:
    quality = findings.quality
    if quality.unseen is not None:
        accuracy = quality.unseen.accuracy
        text = (
            f"About {round(100 * accuracy.value)} of 100 labels are right (95 % interval {interval(accuracy)}), "
            f"measured on {accuracy.num:,} gold records that the LLM never saw."
        )
        if quality.silver is not None:
            where = "" if findings.run.recipe.annotator.splits is None else f", all of {findings.sampled},"
            text += f" Of the LLM's own labels{where} {percent(quality.silver.accuracy.value)} are right."
        return text
    if quality.whole is not None:
        accuracy = quality.whole.accuracy
        return (
            f"About {round(100 * accuracy.value)} of 100 labels are right (95 % interval {interval(accuracy)}), but "
            f"all {accuracy.num:,} gold records were annotated too or learned from: on others the share may "
            "be lower."
        )
    return (
        "How many of these labels are right cannot be said: the corpus has no gold labels. A few hundred records, "
        "drawn at random and labelled by a person, would show it."
    )


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


def percent(share: float, digits: int = 1) -> str:
    """``78.1 %``."""
    return f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: ``-0.3``."""
    return f"{100 * difference:+.1f}"


def interval(estimate: Estimate) -> str:
    """``77.2–78.9 %``."""
    low, high = estimate.bounds
    return f"{100 * low:.1f}–{100 * high:.1f} %"
