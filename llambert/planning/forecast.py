"""What a run will take, predicted from a pilot: seconds, GPU-hours and dollars of each stage.

A stage takes a fixed time (Ray, actors, loading a model) and a time per record or training step, divided among its
replicas. Only the pilot's measurements are stored; the forecast is computed from them and the recipe each time, so
other prices or more replicas need no new pilot.
"""

import heapq
import math
import statistics

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llambert.errors import Damaged, InputError
from llambert.intervals import Z
from llambert.planning.costs import Prices, TokenPrice
from llambert.recipe import Recipe
from llambert.run import Run
from llambert.tables import TABLES

PILOT_FILE = "pilot.json"
STAGES = tuple(table.stage for table in TABLES if table.is_required)
# Part of every interval: relative deviation between runs on one machine, regardless of the pilot.
# Measured by tests/benchmarks/bench_plan.py: DECISIONS.md, "Plans".
_MACHINE_DEVIATION = 0.12
_ON_RAY = ("ingest", "annotate", "finetune", "label")


class Timing(BaseModel):
    """What a pilot measured of one stage, or its manifest's figures if it is complete.

    ``num`` records (fine-tune: optimizer steps) took ``work_seconds``, summed over replicas, and the stage another
    ``fixed_seconds``. ``deviation`` is the relative standard error of the work per record. ``num_kept`` results are
    already stored for the run and took ``spent_seconds``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    num: int = Field(gt=0)
    work_seconds: float = Field(ge=0)
    fixed_seconds: float = Field(0.0, ge=0)
    deviation: float = 0.0
    num_kept: int = 0
    spent_seconds: float = 0.0
    num_prompt_tokens: int = 0
    num_response_tokens: int = 0

    @property
    def seconds_each(self) -> float:
        """Work on one record (or step)."""
        return self.work_seconds / self.num


class CurvePoint(BaseModel):
    """Repeat, half, record -> whether a classifier trained on ``num_labels`` other records disagrees with the LLM."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_labels: int
    wrong: list[list[list[bool]]]


class Pilot(BaseModel):
    """A pilot's results. ``num_steps``: optimizer steps of the recipe's whole fine-tuning.

    ``num_requested``: records that were asked for, of splits that the regime learns from, or all of a smaller sample;
    ``num_pilot_records``: those annotated, more where the sample has other splits too.
    ``usable_share``: of the pilot's annotated records, those whose answer names a category.
    ``scores``: half, record -> the score of the classifiers in the first repeat of the curve's last point.
    ``num_annotatable``: records of the corpus that could be annotated: of the recipe's splits, no duplicates or shots.
    ``num_unlearned``: records to be annotated that are in splits the regime does not learn from. ``learned_share``:
    share of the pilot's annotated records that can be learned from; the others are in other splits or have no usable
    answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_requested: int = 0
    num_pilot_records: int
    num_corpus: int
    num_annotated: int
    num_annotatable: int
    num_steps: int
    num_unlearned: int = 0
    learned_share: float = Field(1.0, gt=0, le=1)
    usable_share: float = Field(1.0, ge=0, le=1)
    ray_seconds: float = 0.0
    """Time to start or join Ray; counted in the first stage."""
    stages: dict[str, Timing]
    with_curve: bool = False
    """Whether a learning curve was requested; with too few records it is empty."""
    curve: list[CurvePoint] = Field(default_factory=list)
    scores: list[list[float]] = Field(default_factory=list)
    measured_at: str = ""


class Figure(BaseModel):
    """A forecast and its 95 % interval."""

    model_config = ConfigDict(frozen=True)
    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Figure":
        """The figure in another unit."""
        return Figure(value=self.value * factor, low=self.low * factor, high=self.high * factor)


class StageForecast(BaseModel):
    """One stage: wall time over all its starts, and the GPUs and cores it holds."""

    model_config = ConfigDict(frozen=True)
    stage: str
    num: int
    unit: str
    seconds: Figure
    gpus: float
    cpus: float
    is_measured: bool
    """The stage is complete: its time is measured, not predicted."""
    num_prompt_tokens: float = 0.0
    num_response_tokens: float = 0.0

    @property
    def gpu_hours(self) -> Figure:
        """GPUs are held from a stage's start to its end."""
        return self.seconds.times(self.gpus / 3600)

    @property
    def cpu_hours(self) -> Figure:
        """Cores held from a stage's start to its end."""
        return self.seconds.times(self.cpus / 3600)


class Forecast(BaseModel):
    """A recipe's stages, in order, and the alternative of asking the LLM about every record (None: not measured)."""

    model_config = ConfigDict(frozen=True)
    stages: list[StageForecast]
    total: Figure
    llm_on_everything: StageForecast | None


def read_pilot(run: Run) -> Pilot | None:
    """The stored pilot of this run, or None."""
    table = run.table("plan")
    if table.read_manifest() is None:
        return None
    content = table.read_file(PILOT_FILE)
    try:
        return Pilot.model_validate_json(content)
    except ValidationError as error:
        remedy = "`llambert repair` sets it aside; then plan again"
        raise Damaged(f"{table.uri}/{PILOT_FILE}", f"{error.error_count()} faults", remedy) from error


def forecast(recipe: Recipe, pilot: Pilot, num_stored: int | None = None) -> Forecast:
    """Times of every stage that was measured, for this recipe's numbers and widths.

    ``num_stored``: of the records to annotate those whose answers are stored; annotate's forecast is of the others
    alone. None: it is of all, with what the pilot spent on its own.
    """
    if num_stored is not None and (asked := pilot.stages.get("annotate")):
        asked = asked.model_copy(update={"num_kept": 0, "spent_seconds": 0.0})
        pilot = pilot.model_copy(update={"stages": {**pilot.stages, "annotate": asked}})
    numbers = {
        "annotate": pilot.num_annotated - (num_stored or 0),
        "parse": pilot.num_annotated,
        "finetune": pilot.num_steps,
    }
    if ingest := pilot.stages.get("ingest"):
        numbers["ingest"] = ingest.num
    stages = [
        forecast_stage(recipe, name, pilot.stages[name], numbers.get(name, pilot.num_corpus))
        for name in STAGES
        if name in pilot.stages
    ]
    # Ray is started once, by the first stage that is not complete.
    first = next((n for n, stage in enumerate(stages) if not stage.is_measured and stage.stage in _ON_RAY), None)
    if first is not None:
        stages[first] = _add_seconds(stages[first], pilot.ray_seconds)
    everything = None
    if annotate := pilot.stages.get("annotate"):
        timing = annotate.model_copy(update={"num_kept": 0, "spent_seconds": 0.0})
        everything = _add_seconds(forecast_stage(recipe, "annotate", timing, pilot.num_corpus), pilot.ray_seconds)
    return Forecast(stages=stages, total=add([stage.seconds for stage in stages]), llm_on_everything=everything)


def forecast_stage(recipe: Recipe, name: str, measured: Timing, num: int) -> StageForecast:
    """One stage of ``num`` records, or optimizer steps, by what was measured of it."""
    replicas, records_per_unit, gpus, cpus = _resources(recipe, name)
    is_measured = measured.num_kept >= num
    remaining = max(num - measured.num_kept, 0)
    seconds = measured.spent_seconds
    if remaining:
        busiest = _largest_load(remaining, measured.num_kept, records_per_unit, replicas)
        seconds += measured.fixed_seconds + busiest * measured.seconds_each
    deviation = 0.0 if is_measured else math.hypot(measured.deviation, _MACHINE_DEVIATION)
    return StageForecast(
        stage=name,
        num=num,
        unit="steps" if name == "finetune" else "records",
        seconds=_with_interval(seconds, deviation),
        gpus=gpus,
        cpus=cpus,
        is_measured=is_measured,
        num_prompt_tokens=measured.num_prompt_tokens / measured.num * num,
        num_response_tokens=measured.num_response_tokens / measured.num * num,
    )


def _resources(recipe: Recipe, name: str) -> tuple[int, int, float, float]:
    """Replicas that share the work, records per unit of work, and the GPUs and cores that all replicas hold."""
    annotator, classifier, label = recipe.annotator, recipe.classifier, recipe.labelling
    match name:
        case "annotate":
            replicas = annotator.max_replicas
            gpus, cpus = replicas * annotator.gpus_per_replica, replicas * annotator.cpus_per_replica
            return replicas, annotator.records_per_part, gpus, cpus
        case "finetune":  # its workers' steps are measured together
            workers = classifier.num_workers
            return 1, 1, workers if classifier.use_gpu else 0, workers * classifier.cpus_per_worker
        case "label":
            actors, per_actor = label.max_actors, label.gpus_per_actor or 0.0
            return actors, recipe.corpus.rows_per_part, actors * per_actor, actors * label.cpus_per_actor
        case _:
            return 1, 1, 0, 1


def _largest_load(num: int, first: int, per_unit: int, replicas: int) -> int:
    """Records of the busiest replica if each takes the next unit as soon as it is idle.

    Units end at multiples of ``per_unit``; the first ``first`` records are complete.
    """
    if replicas == 1:
        return num
    head = min(num, -first % per_unit)
    full, rest = divmod(num - head, per_unit)
    if full > 1000 * replicas:  # the last unit is then less than a thousandth
        return math.ceil(num / replicas)
    loads = [0] * replicas
    for size in [head, *[per_unit] * full, rest]:
        heapq.heappush(loads, heapq.heappop(loads) + size)
    return max(loads)


def _with_interval(value: float, deviation: float) -> Figure:
    """The interval of a time with a relative standard error, on a log scale since times are positive."""
    factor = math.exp(Z * deviation)
    return Figure(value=value, low=value / factor, high=value * factor)


def _add_seconds(stage: StageForecast, seconds: float) -> StageForecast:
    figure = stage.seconds
    share = (figure.value + seconds) / figure.value if figure.value else 1.0
    return stage.model_copy(update={"seconds": figure.times(share)})


def add(figures: list[Figure]) -> Figure:
    """The sum of figures. Bounds are added, since a machine's deviation is the same in every stage."""
    return Figure(**{name: sum(getattr(figure, name) for figure in figures) for name in ("value", "low", "high")})


def usd(recipe: Recipe, stage: StageForecast, prices: Prices, accelerator: str | None) -> Figure | None:
    """Dollars of one stage; None where a price that it needs is unknown."""
    if stage.gpus:
        if accelerator is None or accelerator not in prices.accelerators:
            return None
        total = stage.gpu_hours.times(prices.accelerators[accelerator])
    elif prices.cpu_core is None:
        return None
    else:  # the cores beside a GPU are in its price
        total = stage.cpu_hours.times(prices.cpu_core)
    if stage.stage == "annotate" and recipe.annotator.engine == "openai":
        if (price := token_price(recipe, prices)) is None:
            return None
        tokens = price.prompt * stage.num_prompt_tokens + price.response * stage.num_response_tokens
        total = add([total, Figure(value=1, low=1, high=1).times(tokens / 1e6)])
    return total


def token_price(recipe: Recipe, prices: Prices) -> TokenPrice | None:
    """The prices of the recipe's endpoint, or else those of the price table."""
    limits = recipe.annotator.limits
    prompt, response = limits.usd_per_million_prompt_tokens, limits.usd_per_million_response_tokens
    if prompt is not None and response is not None:
        return TokenPrice(prompt=prompt, response=response)
    return prices.tokens.get(recipe.annotator.model)


def relative_deviation(values: list[float]) -> float:
    """Standard error of the mean of ``values``, relative to it; 0 for fewer than two."""
    if len(values) < 2 or not (mean := statistics.fmean(values)):
        return 0.0
    return statistics.stdev(values) / math.sqrt(len(values)) / mean


def parse_timings(settings: list[str]) -> dict[str, Timing]:
    """``--measured STAGE=NUM:SECONDS``: known rates of one replica, without its start."""
    found: dict[str, Timing] = {}
    for setting in settings:
        name, _, figures = setting.partition("=")
        num, _, seconds = figures.partition(":")
        try:
            found[name] = Timing(num=int(num), work_seconds=float(seconds))
        except (ValueError, ValidationError):
            raise InputError(f"--measured {setting}: expected STAGE=NUM:SECONDS, such as label=25000:558") from None
        if name not in ("annotate", "finetune", "label"):
            raise InputError(f"--measured {setting}: the stage is annotate, finetune (in steps) or label")
    return found
