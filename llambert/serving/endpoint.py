"""The HTTP side of the endpoint: every rejected request gets a status and a reason, and is counted.

::

    POST /v1/label   {"text": "…"} -> {"label": "positive", "score": 0.98}
                     {"texts": ["…", "…"], "probabilities": true} -> {"results": [{"label": …}, …]}
    GET  /healthz    200 if a text can be labelled now, 503 otherwise
    GET  /docs       OpenAPI
"""

import asyncio
import hmac
import ipaddress
import logging
import math
import os
import socket
import time
import traceback
from collections.abc import Coroutine, Mapping
from email.message import Message
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from llambert.errors import InputError
from llambert.execution.live_gauges import LiveGauges
from llambert.serving.connections import Server, listen
from llambert.serving.requests import (
    ANSWER_SCHEMA,
    ERROR_SCHEMA,
    Batcher,
    Limits,
    Prediction,
    RequestError,
    parse_request,
    render,
    request_schema,
)
from llambert.serving.review_thresholds import ReviewThresholds

TOKEN_VARIABLE = "LLAMBERT_SERVE_TOKEN"
"""Environment variable of the required bearer token. Not an argument: Serve shows those in the dashboard."""

PROBE_TEXT = "a text of our own"
"""Labelled to find out whether the classifier works."""

log = logging.getLogger(__name__)

_LABEL = "/v1/label"
_HEALTHY_FOR_S = 10.0
_HEALTH_TIMEOUT_S = 5.0
_PROBE_AFTER_S = 5.0
_CHARSETS = ("utf-8", "utf8")
_ERRORS = {
    400: "The body is not JSON.",
    401: "The bearer token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "A text, their number or the whole request is too large.",
    415: "The body is not declared as JSON, or is compressed.",
    421: "The header Host names neither localhost nor an IP address, and no token is required.",
    422: "The body has the wrong shape.",
    500: "An internal error.",
    503: "Too many texts are waiting, or no replica is available: retry later.",
    504: "No answer in time.",
}


class Endpoint:
    """The Labellers' handle behind HTTP at ``address`` of this node. ``replicas``: their minimum and maximum number.

    ``thresholds``: those of the run's certificate, with which each answer says whether its label needs review.
    """

    def __init__(
        self,
        labeller: DeploymentHandle,
        limits: Limits,
        require_token: bool,
        replicas: tuple[int, int],
        address: tuple[str, int],
        thresholds: ReviewThresholds | None = None,
    ) -> None:
        self._thresholds = thresholds
        self._token = os.environ.get(TOKEN_VARIABLE, "").strip().encode()  # secrets made from files end with a newline
        if require_token and not self._token:
            raise InputError(f"{TOKEN_VARIABLE} is not set on this node, and a token is required")
        self._labeller, self._limits = labeller, limits
        self._batcher = Batcher(self._call, limits, *replicas)
        self._arriving = ArrivingBodies(limits)
        self._takes_any_host = bool(self._token) or not _is_loopback(address[0])
        self._categories: list[str] = []
        self._answered_at = self._failed_at = float("-inf")
        self._health_check = asyncio.Lock()
        self._metrics = _EndpointMetrics()
        self._server = Server(
            self._application(), limits, self._metrics.refused, self._metrics.dropped, math.ceil(limits.timeout_s)
        )
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([_listen(address, limits.timeout_s)]))
        self._metrics.listening()

    def _application(self) -> ASGIApp:
        pages = FastAPI(title="llambert", description="Labels for texts, by the classifier of a run.", redoc_url=None)
        answers: dict[int | str, dict[str, Any]] = {
            status: {"description": reason, "content": _json(ERROR_SCHEMA)} for status, reason in _ERRORS.items()
        }
        description = "A label, or results in the order of the texts."
        answers[200] = {"description": description, "content": _json(ANSWER_SCHEMA)}
        pages.add_api_route(
            _LABEL,
            self.label,
            methods=["POST"],
            summary="Label one text or many",
            responses=answers,
            openapi_extra={"requestBody": {"required": True, "content": _json(request_schema(self._limits))}},
        )
        unhealthy: dict[int | str, dict[str, Any]] = {
            503: {"description": "No replica answers, or the last call failed.", "content": _json(ERROR_SCHEMA)}
        }
        pages.add_api_route("/healthz", self.health, summary="Whether a text can be labelled now", responses=unhealthy)

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and not self._takes_any_host and (error := check_host(Headers(scope=scope))):
                self._metrics.refused(error.status)
                await _error_response(error)(scope, receive, send)
            elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == _LABEL:
                await (await self.label(Request(scope, receive)))(scope, receive, send)  # past FastAPI's routing
            else:
                await pages(scope, receive, send)

        return application

    async def label(self, request: Request) -> JSONResponse:
        """Labels, with their probabilities as scores; a text that cannot be labelled has an ``error`` instead."""
        started = time.perf_counter()
        try:
            check_token(request.headers.get("authorization", ""), self._token)
            check_content(request.headers)
            asked = parse_request(await self._arriving.body(request), self._limits)
            predictions = await self._batcher.label(asked.texts)
            if not self._categories:
                await self._fetch_categories()
            body = render(asked, predictions, self._categories, self._thresholds)
        except RequestError as error:
            if error.status == 504:
                self._failed_at = time.monotonic()
            self._metrics.refused(error.status)
            return _error_response(error)
        except Exception as error:
            self._failed_at = time.monotonic()
            self._metrics.refused(500)
            # Without the message: it may quote a text.
            log.error("status 500: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            return _error_response(RequestError(500, "internal error; the log of the endpoint has the reason"))
        self._metrics.answered(time.perf_counter() - started, self._batcher.num_waiting)
        return JSONResponse(body)

    async def health(self) -> JSONResponse:
        """200 if a replica answered within the last ten seconds, or answers now within five; otherwise 503.

        After a request with status 500 or 504 it is 503 until a text is labelled: a client's, or, from
        ``_PROBE_AFTER_S`` after the failure, one of our own. Requests that are refused do not change it.
        """
        async with self._health_check:  # one check for all who ask at the same time
            try:
                await self._check_replicas()
            except RequestError as error:
                return _error_response(error)
        return JSONResponse({"status": "ok", "categories": self._categories})

    async def _check_replicas(self) -> None:
        now = time.monotonic()
        has_failed = self._failed_at >= self._answered_at
        if has_failed and now - self._failed_at < _PROBE_AFTER_S:
            raise RequestError(503, "the classifier has failed and has labelled no text since")
        if self._categories and not has_failed and now - self._answered_at < _HEALTHY_FOR_S:
            return
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                if has_failed:
                    await self._call([PROBE_TEXT])
                await self._fetch_categories()
        except TimeoutError:
            raise RequestError(503, "no replica of the classifier answers") from None
        except Exception as error:
            self._failed_at = time.monotonic()
            raise RequestError(503, f"the classifier fails: {type(error).__name__}") from error

    async def _fetch_categories(self) -> None:
        self._categories = await self._labeller.categories.remote()
        self._answered_at = time.monotonic()

    async def _call(self, texts: list[str]) -> list[Prediction]:
        """Call a replica, and retry once if it dies: labelling is idempotent."""
        try:
            predictions = await self._labeller.remote(texts)
        except RayActorError:
            self._metrics.retries.inc()
            try:
                predictions = await self._labeller.remote(texts)
            except RayActorError as error:
                raise RequestError(503, "two replicas died with this request") from error
        except DeploymentUnavailableError as error:
            raise RequestError(503, "no replica of the classifier can be started") from error
        self._answered_at = time.monotonic()
        return predictions

    def check_health(self) -> None:
        """Called by Serve, which restarts this replica if its server has stopped unexpectedly."""
        if self._serving.done() and not self._server.should_exit:
            raise RuntimeError("the HTTP server ended")

    async def stop_listening(self) -> None:
        """Stop accepting requests; returns when the accepted ones are answered."""
        self._server.should_exit = True
        await self._serving

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Called by Serve, which awaits what it returns, before it ends this replica, as for a new deployment."""
        server = getattr(self, "_server", None)
        return None if server is None or server.should_exit else self.stop_listening()


def check_token(header: str, token: bytes) -> None:
    """``RequestError`` 401 if the header ``Authorization`` does not hold ``token``; any header will do for none."""
    scheme, _, found = header.partition(" ")
    is_equal = hmac.compare_digest(found.strip().encode("latin-1", "replace"), token)
    if token and not (scheme.lower() == "bearer" and is_equal):
        raise RequestError(401, "this endpoint requires a token: Authorization: Bearer …")


def check_host(headers: Mapping[str, str]) -> RequestError | None:
    """Error 421 if ``Host`` is a name other than localhost.

    Whoever owns a name can have it stand for 127.0.0.1: a browser then takes this endpoint for a part of their site,
    and lets their page read its answers (DNS rebinding). Nobody owns an address or localhost.
    """
    name = headers.get("host", "localhost")  # a browser always sends it
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if name.lower() != "localhost":
            reason = "without a token this endpoint answers to localhost and IP addresses alone, not to other names"
            return RequestError(421, f"{reason} in the header Host: use one of these, or set {TOKEN_VARIABLE}")
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_content(headers: Mapping[str, str]) -> None:
    """``RequestError`` 415 if a body is not plain JSON.

    A page of another site cannot make a browser send this type without asking first, which we do not answer: so it
    cannot use an endpoint that only its visitor can reach.
    """
    message = Message()
    message["content-type"] = headers.get("content-type", "")
    if message.get_content_type() != "application/json" or message.get_content_charset("utf-8") not in _CHARSETS:
        raise RequestError(415, "send JSON in UTF-8, with the header Content-Type: application/json (curl --json)")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "send the body uncompressed, without Content-Encoding")


class ArrivingBodies:
    """Reads the bodies of requests, and limits what those that have not wholly arrived hold together."""

    def __init__(self, limits: Limits) -> None:
        self._max_bytes, self._max_held_bytes = limits.max_request_bytes, limits.max_held_bytes
        self._num_bytes = self._num_requests = 0

    async def body(self, request: Request) -> bytes:
        """The request's body; ``RequestError`` 413 if it is too large by itself, 503 beside the others."""
        too_large = RequestError(413, f"the request is larger than {self._max_bytes:,} bytes: send several")
        if int(request.headers.get("content-length") or 0) > self._max_bytes:
            raise too_large
        pieces, size = [], 0
        self._num_requests += 1
        try:
            async for piece in request.stream():
                size += len(piece)
                self._num_bytes += len(piece)
                if size > self._max_bytes:
                    raise too_large
                # Small requests pass while large ones, which may arrive slowly on purpose, use the limit up.
                is_large = self._num_requests > 1 and size > self._max_held_bytes / self._num_requests
                if is_large and self._num_bytes > self._max_held_bytes:
                    raise RequestError(503, "too many large requests are arriving: retry in a second")
                pieces.append(piece)
        finally:
            self._num_requests -= 1
            self._num_bytes -= size
        return b"".join(pieces)


def _listen(address: tuple[str, int], timeout_s: float) -> socket.socket:
    """Listen, as soon as the endpoint that this one replaces has stopped to."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return listen(address)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _error_response(error: RequestError) -> JSONResponse:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(error.status)
    return JSONResponse({"detail": error.reason}, error.status, headers)


class _EndpointMetrics:
    """``llambert_serve_*`` of one endpoint: requests by HTTP status, and how long the answered ones took."""

    def __init__(self) -> None:
        self.requests = Counter("llambert_serve_requests", "requests by HTTP status", ("status",))
        self.retries = Counter("llambert_serve_retries", "calls retried because a replica died")
        self._dropped = Counter("llambert_serve_dropped_connections", "closed without an answer", ("reason",))
        self._gauges = LiveGauges({})
        seconds = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
        self._seconds = Histogram("llambert_serve_request_seconds", "from a request to its answer", boundaries=seconds)

    def listening(self) -> None:
        """From now on this endpoint is there; an alert misses it when its process is not."""
        self._gauges.set("llambert_serve_endpoints", "1 of each endpoint that is alive", 1)

    def refused(self, status: int) -> None:
        self.requests.inc(1, {"status": str(status)})

    def dropped(self, reason: str) -> None:
        self._dropped.inc(1, {"reason": reason})

    def answered(self, seconds: float, num_waiting: int) -> None:
        self.refused(200)
        self._seconds.observe(seconds)
        self._gauges.set("llambert_serve_waiting_texts", "texts that wait for a replica", num_waiting)
