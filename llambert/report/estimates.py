"""Estimates as text. Rounding never turns almost all into all, or almost none into none."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llambert.evaluation.metrics import Estimate

NEEDS_GOLD = "needs gold labels"
_MAX_DIGITS = 6


def of_100(share: float, digits: int = 0) -> str:
    """A share times 100, with more digits where fewer would show 0 or 100 for what is neither: ``82``, ``99.96``."""
    while digits < _MAX_DIGITS and 1e-9 < share < 1 - 1e-9 and float(f"{100 * share:.{digits}f}") in (0.0, 100.0):
        digits += 1
    return f"{100 * share:.{digits}f}"


def percent(share: float, digits: int = 1) -> str:
    """``78.1 %``."""
    return f"{of_100(share, digits)} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: ``-0.3``."""
    return f"{100 * difference:+.1f}"


def interval(estimate: "Estimate") -> str:
    """``77.2–78.9 %``."""
    low, high = estimate.bounds
    return f"{of_100(low, 1)}–{of_100(high, 1)} %"


def estimate_row(
    name: str, estimate: "Estimate | None", show: Callable[[float], str] = percent, need: str = NEEDS_GOLD
) -> list[str]:
    """Cells of a table: name, value, interval, records; ``need``: what is missing where there is no value."""
    if estimate is None:
        return [name, need, "-", "-"]
    low, high = estimate.bounds
    bounds = interval(estimate) if show is percent else f"{show(low)} to {show(high)}"
    return [name, show(estimate.value), bounds, f"{estimate.num:,}"]
