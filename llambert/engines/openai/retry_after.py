"""How long an endpoint asks clients to wait: in a header or in the error's body, in any of the usual forms."""

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

# "20s", "1m2.5s", "350ms", "6m0s": as OpenAI, Groq and Gemini write durations.
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_IN_BODY = re.compile(r'"retryDelay":\s*"([^"]+)"|try again in (\d[\dhms.]*[sm])\b', re.I)


def retry_after(headers: Mapping[str, str], content: str) -> float | None:
    """Seconds from now, 0 where that is over; None where the endpoint does not say."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    value = headers.get("retry-after", "").strip()
    for read in (_number, _duration, _until):
        if (seconds := read(value)) is not None:
            return max(0.0, seconds)
    found = _IN_BODY.search(content)
    return _duration((found[1] or found[2]).rstrip(".")) if found else None


def _number(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def _duration(value: str) -> float | None:
    found = _DURATION.fullmatch(value)
    if not value or not found:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _until(value: str) -> float | None:
    """Seconds until a date as HTTP writes it."""
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
