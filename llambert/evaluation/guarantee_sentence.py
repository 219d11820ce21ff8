"""What is guaranteed of a run's final labels, in words that need no statistics: its report begins with it."""

import math

from llambert.evaluation.certified import ALL
from llambert.evaluation.guaranteed import Guaranteed

_ROUNDING = 1e-9
_THEN = "then `llambert review import --save`, then start the run again"
_CERTIFY = f"`llambert review export --certify`, {_THEN}"
_ESCALATE = f"`llambert review export --escalate`, {_THEN}"


def guarantee_sentences(guaranteed: Guaranteed) -> list[str]:
    """What holds of how many labels with which probability; where that is less than was wanted, why and what to do."""
    recipe = guaranteed.recipe
    probability = f"with probability {100 * recipe.confidence:g} %"
    if not guaranteed.is_certified:
        num, missing = guaranteed.manifests["certification"].num_kept, guaranteed.num_unanswered
        needed = f"people are to decide {missing:,} more texts of the {num:,} records that were drawn ({_CERTIFY})"
        if not missing:
            needed = (
                f"people have decided the {num:,} records that were drawn; start the run again to certify the labels"
            )
        return [f"Nothing is guaranteed yet: {needed}. Until then the labels are the classifier's alone."]
    if guaranteed.num_others:
        return [
            f"At least {at_least(guaranteed.bound_of_covered)} of the {guaranteed.num_covered:,} labels that people "
            f"decided, or that the classifier keeps by their answers, are right, as people judge it, {probability}.",
            f"Of the other {guaranteed.num_records - guaranteed.num_covered:,} labels nothing is guaranteed: the "
            f"annotator decided {guaranteed.num_others:,} of them. For the target of {at_least(recipe.target)} of all "
            f"labels, set guarantee.escalate: never and let people decide those too ({_ESCALATE}).",
        ]
    found = [f"{_holds(guaranteed)}, {probability}: {_deciders(guaranteed)}."]
    if not guaranteed.is_reached:
        found.append(f"The target of {at_least(recipe.target)} is not reached, because {_reasons(guaranteed)}.")
    return found


def at_least(share: float) -> str:
    """A lower bound as text, rounded down to a tenth of a percent: ``95 %``, ``88.6 %``."""
    floored = math.floor(share * 1000 + _ROUNDING) / 10
    return f"{floored:.1f}".removesuffix(".0") + " %"


def _holds(guaranteed: Guaranteed) -> str:
    category, bound = guaranteed.lowest
    whose = (
        "are right, as people judge it"
        if guaranteed.recipe.oracle == "people"
        else "are those that the annotator gives (agreement with an LLM is not truth)"
    )
    if category == ALL:
        return f"At least {at_least(bound)} of the {guaranteed.num_records:,} final labels {whose}"
    return (
        f"Of the records that the classifier gives any one category, at least {at_least(bound)} of the final labels "
        f"{whose}: that is the figure of {category}, the lowest. This holds for all {len(guaranteed.share_bounds)} "
        "categories at once"
    )


def _deciders(guaranteed: Guaranteed) -> str:
    people, annotator, kept = (guaranteed.num_decided_by(who) for who in ("person", "annotator", "classifier"))
    found = [f"{people:,} were decided by people"] if people or guaranteed.recipe.oracle == "people" else []
    if annotator or guaranteed.recipe.oracle == "annotator":
        found.append(f"{annotator:,} were decided by the annotator")
    return ", ".join([*found, f"{kept:,} kept the classifier's label"])


def _reasons(guaranteed: Guaranteed) -> str:
    """Why the target is missed, and what to do."""
    found = []
    if num := guaranteed.num_undecided:
        were = "was" if num == 1 else "were"
        found.append(
            f"{_records(num)} that the classifier is not sure enough of {were} decided by nobody: {_why(guaranteed)}"
        )
    if num := guaranteed.num_unusable:
        found.append(
            f"the annotator's answers about {_records(num)} name no category: see the reasons in the table "
            "certificate, and make the prompt clearer (`llambert try` shows how answers are read)"
        )
    return "; and ".join(found) or "the certification sample shows too many other labels: choose a lower target"


def _records(num: int) -> str:
    return "1 record" if num == 1 else f"{num:,} records"


def _why(guaranteed: Guaranteed) -> str:
    recipe, judges = guaranteed.recipe, guaranteed.judges
    if guaranteed.escalates:
        return (
            "the budget in annotator.limits or guarantee.max_records ended before they were asked; raise it and start "
            "the run again"
        )
    if recipe.escalate == "never":
        instead = f"or let people decide them ({_ESCALATE})" if recipe.oracle == "people" else ""
        return " ".join(filter(None, ["guarantee.escalate: never; remove it and start the run again", instead]))
    if recipe.oracle == "people":
        shown = f"people's answers do not show that the annotator is the better judge of them ({judges.sentence})"
        return f"{shown}; let people decide them ({_ESCALATE})"
    return (
        f"gold labels show that the classifier is the better judge of them ({judges.sentence}), so more agreement with "
        "the annotator would make the labels worse; a better prompt or model for the annotator would help, "
        "guarantee.escalate: always asks it nevertheless"
    )
