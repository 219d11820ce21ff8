"""``llambert plan``: what a run will take and how many annotations are worthwhile, before it is started."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np

from llambert.annotation.answer_store import AnswerStore
from llambert.execution.devices import placed, with_label_dtype
from llambert.intervals import Z
from llambert.planning.costs import Prices, format_duration, format_usd
from llambert.planning.forecast import Figure, Forecast, Pilot, StageForecast, Timing, add, forecast, read_pilot, usd
from llambert.planning.guarantee_forecast import GuaranteeForecast, forecast_guarantees, num_judged
from llambert.planning.learning_curve import Advice, advise
from llambert.recipe import Recipe
from llambert.run import Run

_OLD_PRICES_DAYS = 365


@dataclass(frozen=True)
class Plan:
    """A recipe's forecast and the prices applied to it. ``advice`` None: there is no learning curve."""

    recipe: Recipe
    pilot: Pilot
    forecast: Forecast
    prices: Prices
    advice: Advice | None
    wanted_gain: float = 0.0
    num_stored: int = 0
    """Records to annotate whose answers are stored."""
    rates_given: bool = False
    """The rates were given, not measured by a pilot."""


def plan(run: Run, num_records: int, wanted_gain: float, prices: Prices, with_curve: bool = True) -> Plan:
    """The plan of a run, from the stored pilot of ``num_records`` records or a new one."""
    from llambert.execution.ray_executor import RAY
    from llambert.training.encoder import require_encoder

    require_encoder(run)  # before Ray is started
    run = with_label_dtype(run, RAY)  # as the run itself will
    found = read_pilot(run)
    is_other = found is not None and found.num_requested != min(num_records, found.num_annotated)
    if found is None or is_other or (with_curve and not found.with_curve):
        from llambert.planning.pilot import pilot

        found = pilot(run, num_records, with_curve)
    advice = advise_from_pilot(found, wanted_gain)
    recipe, num_stored = placed(run, RAY).recipe, _num_stored(run)
    return Plan(recipe, found, forecast(recipe, found, num_stored), prices, advice, wanted_gain, num_stored)


def _num_stored(run: Run) -> int:
    """How many records of the whole sample have an answer in the store."""
    from llambert.stages.asking.ordered_questions import OrderedQuestions

    keys = OrderedQuestions.of(run, run.table("sample")).keys
    return len(keys) - AnswerStore(run.table("answers")).find(keys).null_count


def advise_from_pilot(pilot: Pilot, wanted_gain: float) -> Advice | None:
    """How many annotations are worthwhile by the pilot's learning curve, unusable ones included; None without."""
    if not pilot.curve:
        return None
    sizes = np.array([round(point.num_labels / pilot.learned_share) for point in pilot.curve])
    wrong = np.array([point.wrong for point in pilot.curve])
    return advise(sizes, wrong, wanted_gain, pilot.num_annotatable)


def plan_from_rates(recipe: Recipe, measured: dict[str, Timing], num_corpus: int, prices: Prices) -> Plan:
    """The plan from given rates: nothing is read or run.

    Assumes that every record can be annotated, and that every annotated one can be learned from.
    """
    classifier, num_annotated = recipe.classifier, min(recipe.annotator.num_records, num_corpus)
    num_learned = min(round(num_annotated * (1 - classifier.held_out_share)), classifier.num_records or num_annotated)
    found = Pilot(
        num_pilot_records=0,
        num_corpus=num_corpus,
        num_annotated=num_annotated,
        num_annotatable=num_corpus,
        num_steps=classifier.epochs * -(-num_learned // classifier.batch_size) * classifier.soup_members,
        stages=measured,
    )
    return Plan(recipe, found, forecast(recipe, found), prices, None, rates_given=True)


def render(plan: Plan, accelerator: str | None = None) -> Iterator[str]:
    """Lines for a terminal. ``accelerator``: the one whose price applies to GPU-hours; None: the first priced one."""
    stages = plan.forecast.stages
    pilot, prices = plan.pilot, plan.prices
    name = accelerator or next(iter(prices.accelerators), None)
    yield f"{plan.recipe.name}: {pilot.num_corpus:,} records, {pilot.num_annotated:,} of them annotated by the LLM"
    yield ""
    yield f"{'':<22}{'':>14}  {'time':>12}  {'95 % interval':<22}{'GPU-hours':>10}{'CPU-hours':>10}{'USD':>12}"
    for stage in stages:
        yield _line(stage, stage.stage, usd(plan.recipe, stage, prices, name))
    total = [usd(plan.recipe, stage, prices, name) for stage in stages]
    priced = [one for one in total if one is not None]
    dollars = add(priced) if len(priced) == len(total) else None
    yield _row("in all", "", stages, dollars)
    if everything := plan.forecast.llm_on_everything:
        yield _line(everything, "LLM on everything", usd(plan.recipe, everything, prices, name))
    yield ""
    yield from _notes(plan, name)
    yield from _guarantees(plan, name)


def _guarantees(plan: Plan, accelerator: str | None) -> Iterator[str]:
    """What a guarantee would cost; nothing where the pilot does not tell, but for a recipe that wants one."""
    wanted, pilot = plan.recipe.guarantee, plan.pilot
    found = forecast_guarantees(plan.recipe, pilot)
    if not found:
        if wanted:
            yield ""
            yield "What the guarantee will cost is unknown: the pilot has no learning curve, from which it is forecast."
        return
    yield ""
    oracle = "people's" if wanted and wanted.oracle == "people" else "the LLM's"
    confidence = f"{found[0].confidence:.0%}"
    yield f"What a guarantee would cost (with probability {confidence} this share of the final labels is {oracle}):"
    header = f"{'share':<8}{'labels kept':>12}  {'95 % interval':<18}{'certified':>10}{'escalated':>12}"
    yield f"{header}{'tokens':>14}{'time':>14}{'USD':>10}"
    for each in found:
        dollars = usd(plan.recipe, each.annotator, plan.prices, accelerator)
        yield _guarantee_row(each, dollars, is_wanted=wanted is not None and each.target == wanted.target)
    yield (
        f"By {num_judged(pilot):,} pilot records, judged by classifiers trained on {pilot.curve[-1].num_labels:,} "
        "others. The run's classifier learns from more and is better: then more labels are kept, and less is asked. "
        "Copies of a text are asked about once."
    )
    if oracle == "people's":
        yield "The records to certify are decided by people; the figures take their answers to be like the LLM's."


def _guarantee_row(each: GuaranteeForecast, dollars: Figure | None, is_wanted: bool) -> str:
    kept, stage = each.share_kept, each.annotator
    tokens = stage.num_prompt_tokens + stage.num_response_tokens
    row = (
        f"{f'{100 * each.target:g} %':<8}{kept.value:>12.1%}  {f'{kept.low:.1%} – {kept.high:.1%}':<18}"
        f"{each.num_certified:>10,}{each.num_escalated.value:>12,.0f}{f'{tokens:,.0f}' if tokens else '-':>14}"
        f"{format_duration(stage.seconds.value):>14}{format_usd(dollars.value if dollars else None):>10}"
    )
    if each.smallest is not None:
        row += f"  (guarantee.certify_records: at least {each.smallest:,} are needed to keep any)"
    return row + ("  <- the recipe's" if is_wanted else "")


def _notes(plan: Plan, accelerator: str | None) -> Iterator[str]:
    pilot, prices = plan.pilot, plan.prices
    if annotate := pilot.stages.get("annotate"):
        prompt, response = annotate.num_prompt_tokens / annotate.num, annotate.num_response_tokens / annotate.num
        if prompt:
            spread = Z * annotate.deviation * prompt
            yield f"A prompt has {prompt:,.1f} tokens (± {spread:,.1f}), a response {response:,.1f}."
        yield f"One replica of the LLM answers {1 / annotate.seconds_each:,.1f} records/s once it is loaded."
    if (label := pilot.stages.get("label")) and label.work_seconds:
        yield f"One label actor labels {1 / label.seconds_each:,.1f} records/s."
    if plan.rates_given:
        yield "The rates were given, not measured; starting Ray and loading models is left out."
    else:
        is_wider = pilot.num_pilot_records > pilot.num_requested > 0
        reason = f", the first {pilot.num_requested:,} to learn from among them" if is_wider else ""
        yield (
            f"The pilot annotated {pilot.num_pilot_records:,} records{reason}. Of the {pilot.num_annotated:,} answers "
            f"{plan.num_stored:,} are stored by now: annotate's time and price are those of the others."
        )
    if pilot.num_unlearned:
        yield (
            f"{pilot.num_unlearned:,} of the {pilot.num_annotated:,} records to annotate are of splits that "
            f"classifier.regime {plan.recipe.classifier.regime} does not learn from; see annotator.splits."
        )
    kind = f"GPU-hours of {accelerator}, " if accelerator else ""
    yield "GPUs and cores count from a stage's start to its end; hours and dollars vary as the time does."
    old = _age_days(prices.as_of)
    yield f"USD: {kind}CPU-hours and tokens at list prices of {prices.as_of}; --prices takes yours." + (
        f" They are {old // 30} months old." if old > _OLD_PRICES_DAYS else ""
    )
    yield from _advice(plan)


def _advice(plan: Plan) -> Iterator[str]:
    advice, curve = plan.advice, plan.pilot.curve
    if advice is None:
        return
    points = ", ".join(f"{np.mean(point.wrong):.1%} after {point.num_labels:,}" for point in curve)
    num_repeats, *_, num_each = np.shape(curve[0].wrong)
    yield ""
    yield f"Learning curve, labels unlike the LLM's: {points} ({2 * num_each:,} pilot records)."
    yield (
        f"Each is the mean of {2 * num_repeats} trainings; from one to another the figure varies by "
        f"{100 * advice.training_deviation:.1f} points (standard deviation)."
    )

    def shown(num: int | None) -> str:
        return f"{num:,}" if num is not None else f"more than the {advice.limit:,} that are possible"

    interval = f"95 % interval {shown(advice.low)} to {shown(advice.high)}"
    if advice.says_nothing:
        smallest = round(curve[0].num_labels / plan.pilot.learned_share)
        least = f"at least {shown(advice.low)}" if advice.low is not None and advice.low > smallest else "none"
        yield (
            f"Advised annotations: {least}. The {interval} is too wide to say how many: "
            "the pilot does not show where a doubling gains less than "
            f"{100 * plan.wanted_gain:g} points. Raise --records, or --gain."
        )
        return
    yield (
        f"Advised annotations: {shown(advice.num)} ({interval}). "
        f"Doubling that promises less than {100 * plan.wanted_gain:g} points."
    )


def _line(stage: StageForecast, name: str, dollars: Figure | None) -> str:
    return _row(name, f"{stage.num:,} {stage.unit}", [stage], dollars, stage.is_measured)


def _row(name: str, num: str, stages: list[StageForecast], dollars: Figure | None, done: bool = False) -> str:
    seconds = add([stage.seconds for stage in stages])
    interval = "done" if done else f"{format_duration(seconds.low)} – {format_duration(seconds.high)}"
    gpu_hours = sum(stage.gpu_hours.value for stage in stages)
    cpu_hours = sum(stage.cpu_hours.value for stage in stages)
    return (
        f"{name:<18}{num:>18}  {format_duration(seconds.value):>12}  {interval:<22}{_shown(gpu_hours):>10}"
        f"{_shown(cpu_hours):>10}{format_usd(dollars.value if dollars else None):>12}"
    )


def _shown(hours: float) -> str:
    return f"{hours:,.2f}" if hours else "-"


def _age_days(as_of: str) -> int:
    """Days since the price table's date, or the first of its month; 0 if it is not a date."""
    try:
        return (date.today() - date.fromisoformat(as_of if len(as_of) > 7 else f"{as_of}-01")).days
    except ValueError:
        return 0
