"""How fast an endpoint may be asked, and how much it may cost. Shared by threads; nothing here sleeps."""

import threading
import time
from collections import deque

from llambert.recipe import EndpointLimits


class RateLimiter:
    """Requests and tokens per minute, evenly spaced: no window of a minute holds more than the limit and one.

    ``hold`` stops everyone for a while, as a server that answers 429 with ``Retry-After`` asks.
    """

    def __init__(self, limits: EndpointLimits) -> None:
        self._request_interval_s = 60 / limits.requests_per_minute if limits.requests_per_minute else 0.0
        self._seconds_per_token = 60 / limits.tokens_per_minute if limits.tokens_per_minute else 0.0
        self._lock = threading.Lock()
        self._next_request = self._next_token = time.monotonic()
        self._paused_until = 0.0

    def take(self, num_tokens: int) -> float:
        """Take a place for one request of about ``num_tokens``; the seconds to wait before sending it."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_request, self._next_token, self._paused_until)
            self._next_request = start + self._request_interval_s
            self._next_token = start + num_tokens * self._seconds_per_token
            return start - now

    def correct(self, num_tokens: int) -> None:
        """Account for a request that had ``num_tokens`` more (negative: fewer) than expected."""
        with self._lock:
            self._next_token += num_tokens * self._seconds_per_token

    def hold(self, seconds: float) -> None:
        """Stop all requests for ``seconds``."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)


class Budget:
    """Tokens or dollars that are never passed: what a request may cost at most is set aside before it is sent.

    ``num_tokens_before``: prompt and response tokens that were paid already. ``waiting``: calls of ``reserve`` that
    are not yet decided, first come first.
    """

    def __init__(self, limits: EndpointLimits, num_tokens_before: tuple[int, int]) -> None:
        # (cap, price of a prompt token, price of a response token, unit)
        self._caps: list[tuple[float, float, float, str]] = []
        if limits.budget_tokens is not None:
            self._caps.append((limits.budget_tokens, 1.0, 1.0, "tokens"))
        if limits.budget_usd is not None:
            prompt_price, response_price = limits.usd_per_million_prompt_tokens, limits.usd_per_million_response_tokens
            assert prompt_price is not None
            assert response_price is not None
            self._caps.append((limits.budget_usd, prompt_price / 1e6, response_price / 1e6, "dollars"))
        self._spent = num_tokens_before
        self._reserved = (0, 0)
        self._num_reserved = 0
        self.waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def reserve(self, num_tokens: tuple[int, int]) -> bool:
        """Set aside prompt and response tokens; False where even with nothing else under way they would not fit.

        Waits while it depends on requests under way, which were set aside at their highest. First come, first
        served: what is asked for later never gets the rest of the budget before what was asked for earlier.
        """
        with self._changed:
            ticket = object()
            self.waiting.append(ticket)
            self._changed.wait_for(
                lambda: self.waiting[0] is ticket and (self._fits(num_tokens) or self._num_reserved == 0)
            )
            self.waiting.popleft()
            is_granted = self._fits(num_tokens)
            if is_granted:
                self._reserved = _add(self._reserved, num_tokens)
                self._num_reserved += 1
            self._changed.notify_all()
            return is_granted

    def settle(self, reserved: tuple[int, int], spent: tuple[int, int]) -> None:
        """Replace what was set aside for one request by what it did cost."""
        with self._changed:
            self._reserved = _add(self._reserved, (-reserved[0], -reserved[1]))
            self._num_reserved -= 1
            self._spent = _add(self._spent, spent)
            self._changed.notify_all()

    def describe_end(self) -> str:
        """For example ``the budget ends here: 4,993 of 5,000 tokens are spent``."""
        prompt, response = self._spent
        return "the budget ends here: " + "; ".join(
            f"{prompt * a + response * b:,.{0 if unit == 'tokens' else 2}f} of {cap:,} {unit} are spent"
            for cap, a, b, unit in self._caps
        )

    def _fits(self, num_tokens: tuple[int, int]) -> bool:
        prompt, response = _add(_add(self._spent, self._reserved), num_tokens)
        return all(prompt * a + response * b <= cap for cap, a, b, _ in self._caps)


def _add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]
