"""The cost of a run, of more records, and of the LLM on everything: seconds, accelerator-seconds, dollars."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field

from llambert.section import Section, parse_yaml, read_text, validate
from llambert.storage.manifest import Manifest

_SHIPPED_PRICES = Path(__file__).parent / "prices.yaml"
_HOUR_S = 3_600
_DAY_S = 86_400


class TokenPrice(Section):
    """US dollars per million tokens of a hosted LLM."""

    prompt: float = Field(ge=0)
    response: float = Field(ge=0)


class Prices(Section):
    """A dated price table. ``accelerators`` are US dollars per GPU and hour, ``tokens`` per model.

    ``cpu_core``: US dollars per core and hour, of stages that hold no GPU; the cores beside a GPU are in its price.
    """

    as_of: str
    currency: str = "USD"
    accelerators: dict[str, float] = Field(default_factory=dict)
    cpu_core: float | None = Field(None, ge=0)
    tokens: dict[str, TokenPrice] = Field(default_factory=dict)


def load_prices(path: str | Path | None = None) -> Prices:
    """The shipped price table, or a user's of the same form; ``InputError`` with a line per fault."""
    path = _SHIPPED_PRICES if path is None else path
    text = read_text(path)
    return validate(Prices, parse_yaml(text, path), text, path)


@dataclass(frozen=True)
class StageCost:
    """What one stage of a run took.

    ``wall_seconds`` passed on the clock; ``busy_seconds`` were worked by models or readers, summed over
    workers; ``accelerator_seconds`` are the time GPUs were held, summed over GPUs.
    """

    stage: str
    num_records: int
    wall_seconds: float
    busy_seconds: float
    accelerator_seconds: float = 0.0
    num_prompt_tokens: int = 0
    num_response_tokens: int = 0

    @classmethod
    def of(cls, manifest: Manifest, num_prompt_tokens: int = 0, num_response_tokens: int = 0) -> Self:
        """The cost recorded in a completed table's manifest."""
        return cls(
            manifest.stage,
            manifest.num_in,
            manifest.wall_seconds,
            manifest.busy_seconds,
            manifest.accelerator_seconds,
            num_prompt_tokens,
            num_response_tokens,
        )

    @property
    def records_per_second(self) -> float | None:
        """Records a second on the clock; None for a stage that took no time."""
        return self.num_records / self.wall_seconds if self.wall_seconds > 0 else None

    def usd(self, usd_per_gpu_hour: float | None = None, tokens: TokenPrice | None = None) -> float | None:
        """Dollars for GPUs held and tokens bought; None where neither price is known."""
        if usd_per_gpu_hour is None and tokens is None:
            return None
        gpus = (usd_per_gpu_hour or 0.0) * self.accelerator_seconds / _HOUR_S
        bought = tokens.prompt * self.num_prompt_tokens + tokens.response * self.num_response_tokens if tokens else 0.0
        return gpus + bought / 1e6


@dataclass(frozen=True)
class Comparison:
    """The run against the LLM asked about every record, on the clock and with the same number of replicas."""

    num_records: int
    run_seconds: float
    llm_seconds: float
    label_seconds_per_million: float
    llm_seconds_per_million: float

    @property
    def speed_up(self) -> float:
        """How many times longer the LLM would have taken for this corpus."""
        return self.llm_seconds / self.run_seconds

    @property
    def speed_up_per_record(self) -> float:
        """The same for each further record, once the classifier is trained."""
        return self.llm_seconds_per_million / self.label_seconds_per_million


def compare(costs: Mapping[str, StageCost], num_records: int, num_replicas: int, num_actors: int) -> Comparison | None:
    """The whole run against the LLM on ``num_records``; None where annotate or label did no timed work.

    ``costs`` by table (``responses`` and ``labels`` among them). The LLM's time is its busy time per record,
    without startup, divided among ``num_replicas`` that are always busy: an underestimate, in favour of the
    alternative. The label time of a further record likewise assumes ``num_actors`` busy label actors.
    """
    annotate, label = costs["responses"], costs["labels"]
    if min(annotate.busy_seconds, annotate.num_records, label.busy_seconds, label.num_records) <= 0:
        return None
    llm_busy_seconds = extrapolate_seconds(annotate.busy_seconds, annotate.num_records, num_records)
    return Comparison(
        num_records=num_records,
        run_seconds=sum(cost.wall_seconds for cost in costs.values()),
        llm_seconds=llm_busy_seconds / num_replicas,
        label_seconds_per_million=extrapolate_seconds(label.busy_seconds, label.num_records, 1_000_000) / num_actors,
        llm_seconds_per_million=extrapolate_seconds(annotate.busy_seconds, annotate.num_records, 1_000_000)
        / num_replicas,
    )


def extrapolate_seconds(seconds: float, num_records: int, num_wanted: int) -> float:
    """Seconds for ``num_wanted`` records at the rate of ``seconds`` for ``num_records``."""
    assert num_records > 0, "no rate from no records"
    return seconds / num_records * num_wanted


def format_usd(usd: float | None) -> str:
    """Cents, and hundredths of them where there are fewer than ten; ``-`` where no price is known."""
    if usd is None:
        return "-"
    if 0 < usd < 1e-4:
        return "< 0.0001"
    return f"{usd:,.2f}" if usd >= 0.1 or usd == 0 else f"{usd:.4f}"


def format_duration(seconds: float) -> str:
    """Two units at most: ``9.3 s``, ``9 min 18 s``, ``48 h 28 min``, ``367 days``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    if round(seconds) < _HOUR_S:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    # Hours up to four days, as papers and schedulers write them; days beyond.
    if seconds < 4 * _DAY_S:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(seconds / _DAY_S):,} days"
