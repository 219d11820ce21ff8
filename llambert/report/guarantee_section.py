"""The report's section on the guarantee: the certificate, who decided what, what it cost, and what more would buy."""

import numpy as np

from llambert.annotation.responses import NUM_FOUND
from llambert.evaluation.certified import ALL
from llambert.evaluation.frontier import FrontierPoint
from llambert.evaluation.guarantee_sentence import at_least, guarantee_sentences
from llambert.evaluation.guaranteed import ASKED, Guaranteed
from llambert.evaluation.metrics import Estimate
from llambert.planning.costs import format_duration, format_usd
from llambert.planning.forecast import token_price
from llambert.report import plots
from llambert.report.document import Block, Figure, Section, Table
from llambert.report.estimates import estimate_row, interval, percent, points
from llambert.report.findings import Findings

_TITLE = "Guarantee"
_NUM_LISTED = 11
_DECIDED_BY = {"person": "people", "annotator": "the annotator", "classifier": "the classifier"}


def guarantee_section(findings: Findings) -> list[Section]:
    """Section "Guarantee"; none if the recipe wants none."""
    guaranteed = findings.evidence.guaranteed
    if guaranteed is None:
        return []
    if not guaranteed.is_certified:
        return [Section(_TITLE, [*guarantee_sentences(guaranteed)])]
    blocks: list[Block] = [
        _promise(guaranteed),
        *_tries(guaranteed),
        _certificate(guaranteed),
        "The guarantee is about all these records together, copies included, and holds whatever the scores are worth; "
        "which of the kept labels are the wrong ones is unknown.",
        _who_decided(guaranteed),
        *_who_judges_better(guaranteed),
        *_cost(findings, guaranteed),
        *_frontier(findings, guaranteed),
    ]
    return [Section(_TITLE, blocks)]


def guarantee_figures(findings: Findings) -> dict[str, Estimate | float]:
    """The guarantee's figures by their names among the metrics; empty without a certificate."""
    guaranteed, final = findings.evidence.guaranteed, findings.quality.final
    if guaranteed is None or final is None:
        return {}
    promise = guaranteed.certified.promise
    found: dict[str, Estimate | float] = {
        "guarantee_target": promise.target,
        "guarantee_confidence": promise.confidence,
    }
    for name, bound in guaranteed.share_bounds.items():
        found[_of("guarantee_share_bound", name)] = bound
        threshold = guaranteed.certified.certificates[name].threshold
        if threshold is not None:
            found[_of("guarantee_threshold", name)] = threshold
    if guaranteed.num_others:
        found["guarantee_share_bound_of_covered"] = guaranteed.bound_of_covered
    for who in _DECIDED_BY:
        found[f"share_decided[{who}]"] = guaranteed.num_decided_by(who) / max(guaranteed.num_records, 1)
    if guaranteed.judges.difference is not None:
        found["annotator_minus_classifier_below_threshold"] = guaranteed.judges.difference
    for point in _listed(final.frontier):
        found[f"agreement_at[{point.num_decided}]"] = point.agreement
        if point.accuracy:
            found[f"accuracy_at[{point.num_decided}]"] = point.accuracy
    return found


def _of(figure: str, name: str) -> str:
    return figure if name == ALL else f"{figure}[{name}]"


def _promise(guaranteed: Guaranteed) -> str:
    recipe = guaranteed.recipe
    oracle, gives = ("people", "give") if recipe.oracle == "people" else ("the annotator", "gives")
    each = "of the records that the classifier gives each category" if recipe.per_category else "of all records"
    return (
        f"Wanted (recipe, section guarantee): with probability {percent(recipe.confidence, 0)} at least "
        f"{at_least(recipe.target)} {each} have the label that {oracle} {gives}. To find out which labels may be kept, "
        f"{oracle} decided {guaranteed.certified.num_sampled:,} records drawn at random from those that the "
        "classifier's training had not seen decided."
    )


def _tries(guaranteed: Guaranteed) -> list[str]:
    """What remains of the promise for whoever chooses among several certificates: each may be wrong (union bound)."""
    if (num := guaranteed.num_tries) == 1:
        return []
    confidence = max(1 - num * guaranteed.certified.promise.level, 0.0)
    return [
        f"{num:,} certificates were made of these labels, with different settings. Each keeps its promise with the "
        f"stated probability; all of them do, and so the one that is chosen, with {percent(confidence, 0)} at least."
    ]


def _certificate(guaranteed: Guaranteed) -> Table:
    certified, rows = guaranteed.certified, []
    for name, certificate in certified.certificates.items():
        population = certified.populations[name]
        rows.append(
            [
                "all" if name == ALL else name,
                f"{population.num_records:,}",
                f"{population.num_undecided:,}",
                f"{certificate.num_sampled:,}",
                "none" if certificate.threshold is None else str(np.float32(certificate.threshold)),
                f"{certificate.num_kept:,}",
                f"{certificate.num_wrong:,}",
                "too few records" if certificate.max_wrong < 0 else f"{certificate.max_wrong:,}",
                at_least(certificate.share_bound),
                at_least(guaranteed.share_bounds[name]),
            ]
        )
    header = [
        "label", "records", "undecided", "sampled", "threshold", "kept", "wrong", "allowed", "certified",
        "reached",
    ]  # fmt: skip
    caption = (
        "The certificate, by the classifier's label. Undecided: records the oracle had not decided, from which the "
        "sample was drawn; kept, wrong, allowed: sampled records with a score of at least the threshold, those of them "
        "whose label is not the oracle's, and how many may be; certified: the share of right labels if the oracle "
        "decides everything below the threshold; reached: with what was decided:"
    )
    return Table(header, rows, caption)


def _who_decided(guaranteed: Guaranteed) -> Table:
    num = max(guaranteed.num_records, 1)
    counts = {whom: guaranteed.num_decided_by(who) for who, whom in _DECIDED_BY.items()}
    rows = [[whom, f"{count:,}", percent(count / num)] for whom, count in counts.items()]
    others = {
        "of the classifier's: answers that name no category": guaranteed.num_unusable,
        "of the classifier's: below the threshold, and nobody was asked": guaranteed.num_undecided,
    }
    rows += [[what, f"{count:,}", percent(count / num)] for what, count in others.items()]
    return Table(["final label decided by", "records", "share"], rows)


def _who_judges_better(guaranteed: Guaranteed) -> list[Block]:
    judges = guaranteed.judges
    if judges.difference is None:
        certificates = guaranteed.certified.certificates.values()
        if all(each.num_kept == each.num_sampled for each in certificates):
            return ["No sampled record is below the threshold."]
        return ["Who judges the records below the threshold better is unknown: no sampled one has a gold label."]
    num = judges.difference.num
    rows = [
        estimate_row("the annotator", Estimate.share(judges.num_annotator_right, num)),
        estimate_row("the classifier", Estimate.share(judges.num_classifier_right, num)),
        estimate_row("annotator minus classifier (percentage points)", judges.difference, points),
    ]
    asked = "were asked of the annotator" if guaranteed.escalates else "were not asked of the annotator"
    by = "as people judge it" if guaranteed.recipe.oracle == "people" else "by gold"
    caption = f"Who is right about sampled records below the threshold, {by}; those records {asked}:"
    return [Table(["right", "value", "95 % interval", "records"], rows, caption)]


def _cost(findings: Findings, guaranteed: Guaranteed) -> list[Block]:
    """Questions, tokens, time and price of certify and escalate; empty if the annotator was asked nothing."""
    recipe = findings.run.recipe
    price = token_price(recipe, findings.prices) if recipe.annotator.engine == "openai" else None
    rows = []
    for name, responses in ASKED.items():
        if (asked := guaranteed.manifests.get(responses)) is None:
            continue
        cost = findings.costs[name]
        rows.append(
            [
                cost.stage,
                f"{asked.num_in:,}",
                f"{asked.counts.get(NUM_FOUND, 0):,}",
                f"{cost.num_prompt_tokens:,}",
                f"{cost.num_response_tokens:,}",
                format_duration(cost.wall_seconds),
                format_usd(cost.usd(tokens=price)),
            ]
        )
    header = ["stage", "questions", "stored before", "tokens read", "tokens written", "on the clock", "USD (tokens)"]
    return [Table(header, rows, "What certifying and escalating took:")] if rows else []


def _frontier(findings: Findings, guaranteed: Guaranteed) -> list[Block]:
    final = findings.quality.final
    if final is None or final.chosen is None:
        return []
    chosen, num_records = final.chosen, guaranteed.num_records
    is_people = guaranteed.recipe.oracle == "people"
    oracle = "people" if is_people else "the annotator"
    curves = {f"agree with {oracle}": [(point.num_decided, point.agreement) for point in final.frontier]}
    if not is_people and chosen.accuracy:
        curves["right by gold"] = [(point.num_decided, point.accuracy) for point in final.frontier if point.accuracy]
    decides = "people decide" if is_people else "the annotator decides"
    point = (chosen.num_decided, chosen.agreement.value)
    axis = f"records that {decides}{'' if is_people else ': its calls'}"
    svg = plots.frontier("frontier", curves, point, num_records, guaranteed.recipe.target, axis)
    header = [decides, "share", f"agree with {oracle}", "95 % interval"]
    if chosen.accuracy:
        header += ["right by gold", "95 % interval"]
    others = [point for point in _listed(final.frontier) if point.num_decided != chosen.num_decided]
    listed = sorted([*others, chosen], key=lambda each: each.num_decided)
    rows = [_row(each, num_records, is_chosen=each is chosen) for each in listed]
    caption = (
        f"What each call buys: final labels by how many records {decides}, the least sure first; the diamond is "
        "the certificate's choice. Estimated from the certification sample; each interval (95 %) holds for its point "
        "alone, not for all at once."
    )
    note = (
        f"The first row is the least, the records of the training and of the certification sample "
        f"({guaranteed.num_decided_before:,}). Copies of a text are asked about once, so the calls may be fewer than "
        "the records. Unlike these estimates the certificate is a promise: its threshold is tested, so that it "
        "holds with the stated probability."
    )
    return [Figure("frontier", svg, caption), Table(header, rows), note]


def _listed(frontier: list[FrontierPoint]) -> list[FrontierPoint]:
    """Some of the points, the first and the last among them."""
    places = np.linspace(0, len(frontier) - 1, min(len(frontier), _NUM_LISTED)).round().astype(int)
    return [frontier[place] for place in places.tolist()]


def _row(point: FrontierPoint, num_records: int, is_chosen: bool) -> list[str]:
    first = f"{point.num_decided:,}" + (" (chosen)" if is_chosen else "")
    cells = [first, percent(point.num_decided / num_records)]
    for share in (point.agreement, point.accuracy):
        cells += [percent(share.value), interval(share)] if share else []
    return cells
