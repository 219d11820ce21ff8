"""What the endpoint accepts, and how the texts of many requests become few calls of the classifier. No Ray."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, PositiveInt

from llambert.errors import LabelFault
from llambert.section import Section
from llambert.serving.review_thresholds import ReviewThresholds, needs_review
from llambert.untrusted import parse_json


class Limits(Section):
    """What one request may hold, what may wait, and for how long. Beyond them a request is refused with the reason."""

    max_texts: PositiveInt = 1_000
    """Of one request."""
    max_text_chars: PositiveInt = 100_000
    """Of one text; the corpus' own limit by default."""
    max_request_bytes: PositiveInt = 8 << 20
    max_held_bytes: PositiveInt = 64 << 20
    """Of all requests that arrive, and in characters of all that wait for the classifier; beyond it large requests get
    status 503. One request may always have ``max_request_bytes``."""
    max_waiting_texts: PositiveInt = 20_000
    """Of all requests that wait for the classifier together; beyond it status 503 asks to retry later."""
    max_call_chars: PositiveInt = 65_536
    """Maximum number of characters in one call of a replica; a longer text is a call by itself."""
    timeout_s: float = Field(30.0, gt=0)
    """For a request's body to arrive (then status 408), for its answer to be ready (504) and to be read."""
    head_timeout_s: float = Field(10.0, gt=0)
    """From a connection's opening, or the first byte of a later request, to the end of the request's headers."""
    max_connections: PositiveInt = 1_000
    """Open at once, up to 50 kB each beside their requests; beyond it those that wait for their clients are closed."""
    batch_wait_s: float = Field(0.02, ge=0)
    """How long a text waits for more texts to join its call while the replicas are busy."""


class RequestError(Exception):
    """A request that is answered with an HTTP error status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class LabelRequest:
    """``is_single``: the body had ``text``, so the answer is one label and not a list."""

    texts: list[str]
    is_single: bool
    probabilities: bool


@dataclass(frozen=True)
class Prediction:
    """The classifier's answer for one text; ``label`` is None if it failed, and ``error`` says why."""

    label: str | None
    score: float
    probabilities: Sequence[float]
    error: LabelFault | None = None


_KEYS = ("text", "texts", "probabilities")


def request_schema(limits: Limits) -> dict[str, Any]:
    """JSON schema of a request's body. Limits are stated in words: exceeding them is status 413, not 422."""
    limit = f"at most {limits.max_text_chars:,} characters"
    texts = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    return {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": f"One text, {limit}; the answer is its label."},
            "texts": {**texts, "description": f"Up to {limits.max_texts:,}, {limit} each; the answers in their order."},
            "probabilities": {"type": "boolean", "default": False, "description": "Those of every category too."},
        },
        "oneOf": [{"required": ["text"]}, {"required": ["texts"]}],
        "additionalProperties": False,
    }


_RESULT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"type": ["string", "null"], "description": "null: see error"},
        "score": {"type": "number", "description": "The probability of the label."},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        "needs_review": {
            "type": "boolean",
            "description": "Only of a run with a certificate: true if the score is below the lowest one with which the "
            "certificate keeps a label (where it has one for each category, of this label). The run's guarantee is "
            "about its own records, not about other texts.",
        },
        "error": {"type": "string", "description": "Why the text has no label, such as empty_text."},
    },
    "required": ["label"],
    "additionalProperties": False,
}
ANSWER_SCHEMA: dict[str, Any] = {
    "oneOf": [
        _RESULT,
        {
            "type": "object",
            "properties": {"results": {"type": "array", "items": _RESULT}},
            "required": ["results"],
            "additionalProperties": False,
        },
    ]
}
"""JSON schema of an answer's body: ``render``."""

ERROR_SCHEMA: dict[str, Any] = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}


def parse_request(body: bytes, limits: Limits) -> LabelRequest:
    """The request of a JSON body; ``RequestError`` 400 (not JSON), 413 (too large) or 422 (wrong shape)."""
    try:
        text = body.decode("utf-8-sig")
        values = parse_json(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {_json_error(error)}") from error
    if not isinstance(values, dict):
        raise RequestError(422, f'expected an object with "text" or "texts", found {_json_type(values)}')
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise RequestError(422, f"unknown key {unknown[0][:50]!r}; valid keys: {', '.join(_KEYS)}")
    if ("text" in values) == ("texts" in values):
        raise RequestError(422, 'expected either "text" (a string) or "texts" (a list of strings)')
    probabilities = values.get("probabilities", False)
    if not isinstance(probabilities, bool):
        raise RequestError(422, f"probabilities: expected true or false, found {_json_type(probabilities)}")
    is_single = "text" in values
    texts = [values["text"]] if is_single else values["texts"]
    if not isinstance(texts, list):
        raise RequestError(422, f"texts: expected a list of strings, found {_json_type(texts)}")
    if not texts:
        raise RequestError(422, "texts: the list is empty")
    if len(texts) > limits.max_texts:
        raise RequestError(413, f"texts: {len(texts):,} texts; a request may hold {limits.max_texts:,}: send several")
    for position, text in enumerate(texts):
        name = "text" if is_single else f"texts[{position}]"
        if not isinstance(text, str):
            raise RequestError(422, f"{name}: expected a string, found {_json_type(text)}")
        if len(text) > limits.max_text_chars:
            raise RequestError(413, f"{name}: {len(text):,} characters; a text may have {limits.max_text_chars:,}")
    return LabelRequest(texts, is_single, probabilities)


def render(
    request: LabelRequest,
    predictions: list[Prediction],
    categories: list[str],
    thresholds: ReviewThresholds | None = None,
) -> dict[str, Any]:
    """The answer's body."""
    results = []
    for prediction in predictions:
        result: dict[str, Any] = {"label": prediction.label}
        if prediction.error is not None:
            result["error"] = prediction.error
        else:
            result["score"] = prediction.score
            if thresholds is not None and prediction.label is not None:
                result["needs_review"] = needs_review(thresholds, prediction.label, prediction.score)
            if request.probabilities:
                result["probabilities"] = dict(zip(categories, prediction.probabilities, strict=True))
        results.append(result)
    return results[0] if request.is_single else {"results": results}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise RequestError(422, "a key is given more than once in the same object")
    return values


def _refuse_constant(name: str) -> None:
    raise RequestError(400, f"the body is not JSON: {name} is not a JSON value")


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _json_error(error: ValueError) -> str:
    """Where a body stops being valid JSON. Never quotes the body, which may hold a user's text."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, line {error.lineno} column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return str(error)  # of parse_json


# Many requests, few calls

_NEXT_REQUEST_WAIT_S = 0.005  # sixteen clients send their next requests within three milliseconds of their answers


@dataclass(eq=False)
class _PendingRequest:
    """A request whose texts wait, are being classified, or are answered."""

    texts: list[str]
    answered: asyncio.Future[list[Prediction]]
    num_taken: int = 0
    predictions: dict[int, Prediction] = field(default_factory=dict)
    """By the text's place in the request."""
    arrived: float = field(default_factory=time.monotonic)


_Slice = tuple[_PendingRequest, int, int]  # texts first to last of a request


class Batcher:
    """Gathers texts of concurrent requests into calls of ``send``, oldest first.

    A call is sent when fewer than ``min_replicas`` are in flight, when ``limits.max_call_chars`` wait, or when a text
    has waited ``limits.batch_wait_s``; at most two per replica of ``max_replicas`` are in flight. Waiting texts are
    divided evenly among the idle replicas. A client that was just answered often sends its next request: for some
    milliseconds the next call waits for one request per answered client, so that these requests share a call. A
    single client never waits. Used from one event loop.
    """

    def __init__(
        self,
        send: Callable[[list[str]], Awaitable[list[Prediction]]],
        limits: Limits,
        min_replicas: int = 1,
        max_replicas: int = 1,
    ) -> None:
        self._send, self._limits = send, limits
        self._min_calls, self._max_calls = min_replicas, 2 * max_replicas
        self._queue: deque[_PendingRequest] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._num_chars = 0
        self._num_expected, self._expected_until = 0, 0.0
        self.num_waiting = 0

    async def label(self, texts: list[str]) -> list[Prediction]:
        """Verdicts in the order of the texts; ``RequestError`` 503 or 504, or what ``send`` raised."""
        if self.num_waiting + len(texts) > self._limits.max_waiting_texts:
            raise RequestError(503, f"{self.num_waiting:,} texts are waiting already: retry in a second")
        num_chars = sum(map(len, texts))
        if self._num_chars and self._num_chars + num_chars > self._limits.max_held_bytes:
            raise RequestError(503, f"{self._num_chars:,} characters are waiting already: retry in a second")
        request = _PendingRequest(texts, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self.num_waiting += len(texts)
        self._num_chars += num_chars
        self._start_calls()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await request.answered
        except TimeoutError:
            raise RequestError(504, f"no answer within {self._limits.timeout_s:g} s") from None
        finally:
            self._discard(request)

    def _start_calls(self) -> None:
        while self._queue and len(self._calls) < self._max_calls and self._is_due():
            call = asyncio.get_running_loop().create_task(self._call(self._take()))
            self._calls.add(call)
        if self._queue and self._timer is None and len(self._calls) < self._max_calls:
            has_idle_replica = len(self._calls) < self._min_calls
            delay = _NEXT_REQUEST_WAIT_S if has_idle_replica else self._limits.batch_wait_s
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._start_calls()

    def _is_due(self) -> bool:
        now = time.monotonic()
        has_waited = now - self._queue[0].arrived >= self._limits.batch_wait_s
        if has_waited or self._num_chars >= self._limits.max_call_chars:
            return True
        is_complete = len(self._queue) >= self._num_expected or now >= self._expected_until
        return len(self._calls) < self._min_calls and is_complete

    def _take(self) -> list[_Slice]:
        """The oldest texts: an idle replica's share, at most ``max_call_chars`` characters, at least one text."""
        taken: list[_Slice] = []
        num_idle = max(1, self._min_calls - len(self._calls))
        num_texts, room = -(-self.num_waiting // num_idle), self._limits.max_call_chars
        while self._queue and num_texts:
            request, first = self._queue[0], self._queue[0].num_taken
            last, end = first, min(len(request.texts), first + num_texts)
            while last < end and (len(request.texts[last]) <= room or not (taken or last > first)):
                room -= len(request.texts[last])
                last += 1
            if last == first:
                break
            taken.append((request, first, last))
            num_texts -= last - first
            self._dequeue(request, last)
            if last < len(request.texts):
                break
            self._queue.popleft()
        self._num_expected = max(0, self._num_expected - len(taken))
        return taken

    def _dequeue(self, request: _PendingRequest, last: int) -> None:
        """The texts of a request up to ``last`` no longer wait."""
        texts = request.texts[request.num_taken : last]
        self.num_waiting -= len(texts)
        self._num_chars -= sum(map(len, texts))
        request.num_taken = last

    def _discard(self, request: _PendingRequest) -> None:
        """Drop the waiting texts of a request that has failed or timed out."""
        if request.num_taken < len(request.texts):
            self._dequeue(request, len(request.texts))
            self._queue.remove(request)

    def _expect_another(self) -> None:
        now = time.monotonic()
        expected = self._num_expected if now < self._expected_until else 0
        self._num_expected = 1 + max(expected, len(self._queue))
        self._expected_until = now + _NEXT_REQUEST_WAIT_S

    async def _call(self, slices: list[_Slice]) -> None:
        try:
            error = await self._answer(slices)
            # The texts of one request may be the cause: the others must not share its fate.
            is_retried = len(slices) > 1 and not isinstance(error, RequestError)
            for one in slices if error else ():
                answered = one[0].answered
                found = await self._answer([one]) if is_retried and not answered.done() else error
                if found and not answered.done():
                    answered.set_exception(found)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._calls.discard(task)
            self._start_calls()

    async def _answer(self, slices: list[_Slice]) -> Exception | None:
        """Answer the requests that this call completes; what ``send`` raised, and then none is answered."""
        try:
            predictions = await self._send([text for request, a, b in slices for text in request.texts[a:b]])
        except Exception as error:
            return error
        places = ((request, place) for request, first, last in slices for place in range(first, last))
        for (request, place), prediction in zip(places, predictions, strict=True):
            request.predictions[place] = prediction
        for request, _, _ in slices:
            if len(request.predictions) == len(request.texts) and not request.answered.done():
                request.answered.set_result([request.predictions[place] for place in range(len(request.texts))])
                self._expect_another()
        return None
