"""The report's section on time and money: every stage, the LLM on everything, and the plan's forecast."""

from llambert.annotation.responses import NUM_FOUND
from llambert.planning.costs import StageCost, format_duration, format_usd
from llambert.planning.forecast import Figure as Forecast
from llambert.planning.forecast import forecast, usd
from llambert.report import plots
from llambert.report.document import Block, Figure, Section, Table
from llambert.report.findings import Findings


def costs_section(findings: Findings) -> Section:
    """Section "What it took"."""
    costs, comparison = findings.costs, findings.comparison
    seconds = {cost.stage: cost.wall_seconds for cost in costs.values()}
    alternative = ("LLM on everything", comparison.llm_seconds) if comparison else None
    svg = plots.stage_times("times", seconds, alternative)
    header = ["stage", "records", "on the clock", "at work", "records/s", "tokens read", "tokens written", "GPU-hours"]
    blocks: list[Block] = [
        Figure("times", svg, "Time of each stage, and of the LLM asked about everything."),
        Table(header, [_time_row(cost) for cost in costs.values()]),
        "On the clock: from a stage's start to its end, records/s over that. At work: time its models or readers "
        "worked, summed over all workers.",
    ]
    if num := findings.evidence.manifests["responses"].counts.get(NUM_FOUND):
        blocks.append(
            f"Of the annotator's answers {num:,} were stored before; its time and tokens are of all, as if they had "
            "been asked for now."
        )
    if comparison is not None:
        ratio = comparison.speed_up
        faster = f"{ratio:.2f} times faster" if ratio >= 1 else f"{1 / ratio:.2f} times longer"
        blocks.append(
            f"LLM on everything: its time at work per record times {comparison.num_records:,} records, shared by this "
            f"run's replicas, without the time to start them: {format_duration(comparison.llm_seconds)}. The run took "
            f"{format_duration(comparison.run_seconds)}: {faster}."
        )
    return Section("What it took", [*blocks, *_planned(findings), *_money(findings)])


def _time_row(cost: StageCost) -> list[str]:
    rate = cost.records_per_second
    return [
        cost.stage,
        f"{cost.num_records:,}",
        format_duration(cost.wall_seconds),
        format_duration(cost.busy_seconds) if cost.busy_seconds else "-",
        "-" if rate is None else f"{rate:,.1f}",
        f"{cost.num_prompt_tokens:,}" if cost.num_prompt_tokens else "-",
        f"{cost.num_response_tokens:,}" if cost.num_response_tokens else "-",
        f"{cost.accelerator_seconds / 3600:,.2f}" if cost.accelerator_seconds else "-",
    ]


def _planned(findings: Findings) -> list[Block]:
    """The plan's forecast beside the actual figures; empty if no plan was made."""
    if findings.pilot is None:
        return []
    recipe, prices = findings.run.recipe, findings.prices
    accelerator = next(iter(prices.accelerators), None)
    planned = {stage.stage: stage for stage in forecast(recipe, findings.pilot).stages}
    rows, total, total_taken = [], 0.0, 0.0
    for cost in findings.costs.values():
        if (stage := planned.get(cost.stage)) is None:
            continue
        seconds, taken = stage.seconds, cost.wall_seconds
        total, total_taken = total + seconds.value, total_taken + taken
        actual = stage.model_copy(update={"seconds": Forecast(value=taken, low=taken, high=taken)})
        dollars = [usd(recipe, one, prices, accelerator) for one in (stage, actual)]
        interval = f"{format_duration(seconds.low)} – {format_duration(seconds.high)}"
        rows.append(
            [
                cost.stage,
                format_duration(seconds.value),
                "done by the plan" if stage.is_measured else interval,
                format_duration(taken),
                f"{taken / seconds.value:.2f}" if seconds.value else "-",
                *(format_usd(figure.value if figure else None) for figure in dollars),
            ]
        )
    ratio = f"{total_taken / total:.2f}"
    rows.append(["in all", format_duration(total), "", format_duration(total_taken), ratio, "", ""])
    header = ["stage", "planned", "95 % interval", "took", "took / planned", "USD planned", "USD"]
    caption = f"Plan and fact; list prices of {prices.as_of}" + (f", GPUs as {accelerator}:" if accelerator else ":")
    return [Table(header, rows, caption)]


def _money(findings: Findings) -> list[Block]:
    prices, annotator = findings.prices, findings.run.recipe.annotator
    blocks: list[Block] = []
    gpu_hours = sum(cost.accelerator_seconds for cost in findings.costs.values()) / 3600
    if gpu_hours > 0:
        rows = [[name, f"{usd:.2f}", f"{usd * gpu_hours:,.2f}"] for name, usd in prices.accelerators.items()]
        caption = f"{gpu_hours:,.2f} GPU-hours at list prices of {prices.as_of}:"
        blocks.append(Table(["accelerator", "USD per GPU-hour", "USD"], rows, caption))
    if annotator.engine == "openai" and (price := prices.tokens.get(annotator.model)):
        spent = sum(cost.usd(tokens=price) or 0.0 for cost in findings.costs.values() if cost.num_prompt_tokens)
        asked = findings.costs["responses"].usd(tokens=price) or 0.0
        every = asked / max(1, findings.evidence.answers.num) * len(findings.evidence.records)
        blocks.append(
            f"Tokens of {annotator.model} at list prices of {prices.as_of}: {spent:,.2f} USD; "
            f"for every record it would be {every:,.2f} USD."
        )
    return blocks
