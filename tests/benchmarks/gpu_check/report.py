"""The lines of the table, and figures with their intervals."""

from collections.abc import Callable
from dataclasses import dataclass

from scipy.stats import binomtest

from llambert.intervals import CONFIDENCE_LEVEL


@dataclass(frozen=True)
class Line:
    """``value`` of ``name``; ``num``: of what it was measured on, such as ``2,048 texts``."""

    name: str
    value: str
    num: str = ""
    note: str = ""
    is_failed: bool = False


Report = Callable[[Line], None]


def share_line(name: str, num_hits: int, num: int, unit: str, limit: float | None = None, note: str = "") -> Line:
    """A share with Wilson's interval; failed where all of the interval is above ``limit``."""
    low, high = binomtest(num_hits, num).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    is_failed = limit is not None and bool(low > limit)
    value = f"{num_hits / num:.2%} ({low:.2%} to {high:.2%})"
    if limit is not None:
        value = f"FAILED, {value} expected at most {limit:.1%}" if is_failed else value
    return Line(name, value, f"{num:,} {unit}", note, is_failed)
