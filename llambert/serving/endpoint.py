"""The HTTP side of the endpoint: every rejected request gets a status and a reason, and is counted.

::

    POST /v1/label   {"text": "…"} -> {"label": "positive", "score": 0.98}
                     {"texts": ["…", "…"], "probabilities": true} -> {"results": [{"label": …}, …]}
    GET  /healthz    200 if a text can be labelled now, 503 otherwise
    GET  /docs       OpenAPI
"""

import asyncio
import hmac
import math
import os
import socket
import time
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Receive, Scope, Send

from llambert.errors import InputError
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

TOKEN_VARIABLE = "LLAMBERT_SERVE_TOKEN"
"""Environment variable of the required bearer token. Not an argument: Serve shows those in the dashboard."""

_LABEL = "/v1/label"
_HEALTHY_FOR_S = 10.0
_HEALTH_TIMEOUT_S = 5.0
_ERRORS = {
    400: "The body is not JSON.",
    401: "The bearer token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "A text, their number or the whole request is too large.",
    422: "The body has the wrong shape.",
    503: "Too many texts are waiting, or no replica is available: retry later.",
    504: "No answer in time.",
}


class Endpoint:
    """An ASGI application around the Labellers' handle. ``replicas``: their minimum and maximum number."""

    def __init__(
        self, labeller: DeploymentHandle, limits: Limits, require_token: bool, replicas: tuple[int, int]
    ) -> None:
        self._token = os.environ.get(TOKEN_VARIABLE, "").encode()
        if require_token and not self._token:
            raise InputError(f"{TOKEN_VARIABLE} is not set on this node, and a token is required")
        self._labeller, self._limits = labeller, limits
        self._batcher = Batcher(self._call, limits, *replicas)
        self._categories: list[str] = []
        self._answered_at = float("-inf")
        self._metrics = _EndpointMetrics()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application that Serve's proxies, or our own server, call."""
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
            503: {"description": "No replica answers.", "content": _json(ERROR_SCHEMA)}
        }
        pages.add_api_route("/healthz", self.health, summary="Whether a text can be labelled now", responses=unhealthy)

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == _LABEL:
                await (await self.label(Request(scope, receive)))(scope, receive, send)  # past FastAPI's routing
            else:
                await pages(scope, receive, send)

        return application

    async def label(self, request: Request) -> JSONResponse:
        """Labels, with their probabilities as scores; a text that cannot be labelled has an ``error`` instead."""
        started = time.perf_counter()
        try:
            self._check_token(request.headers.get("authorization", ""))
            asked = parse_request(await self._body(request), self._limits)
            predictions = await self._batcher.label(asked.texts)
            if not self._categories:
                await self._fetch_categories()
            body = render(asked, predictions, self._categories)
        except RequestError as error:
            self._metrics.requests.inc(1, {"status": str(error.status)})
            return _error_response(error)
        self._metrics.answered(time.perf_counter() - started, self._batcher.num_waiting)
        return JSONResponse(body)

    async def health(self) -> JSONResponse:
        """200 if a replica answered within the last ten seconds, or answers now within five; otherwise 503."""
        if time.monotonic() - self._answered_at > _HEALTHY_FOR_S:
            try:
                async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                    await self._fetch_categories()
            except (TimeoutError, RayActorError):
                return _error_response(RequestError(503, "no replica of the classifier answers"))
        return JSONResponse({"status": "ok", "categories": self._categories})

    def _check_token(self, header: str) -> None:
        expected = b"Bearer " + self._token
        if self._token and not hmac.compare_digest(header.encode("utf-8", "replace"), expected):
            raise RequestError(401, "this endpoint requires a token: Authorization: Bearer …")

    async def _body(self, request: Request) -> bytes:
        """The request's body, read no further than the limit."""
        limit = self._limits.max_request_bytes
        too_large = RequestError(413, f"the request is larger than {limit:,} bytes: send several")
        if int(request.headers.get("content-length") or 0) > limit:
            raise too_large
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                async for piece in request.stream():
                    size += len(piece)
                    if size > limit:
                        raise too_large
                    pieces.append(piece)
        except TimeoutError:
            raise RequestError(408, f"the request did not arrive within {self._limits.timeout_s:g} s") from None
        return b"".join(pieces)

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
        self._answered_at = time.monotonic()
        return predictions


class ListeningEndpoint(Endpoint):
    """An endpoint that listens itself: a request passes through one process less than with Serve's proxy."""

    def __init__(
        self,
        labeller: DeploymentHandle,
        limits: Limits,
        require_token: bool,
        replicas: tuple[int, int],
        address: tuple[str, int],
    ) -> None:
        super().__init__(labeller, limits, require_token, replicas)
        drain_s = math.ceil(limits.timeout_s)
        config = uvicorn.Config(
            self.__serve_build_asgi_app__(),
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=90,
            timeout_graceful_shutdown=drain_s,
        )
        self._server = uvicorn.Server(config)
        listening = socket.create_server(address, backlog=2048)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([listening]))

    def check_health(self) -> None:
        """Called by Serve, which restarts this replica if its server has stopped unexpectedly."""
        if self._serving.done() and not self._server.should_exit:
            raise RuntimeError("the HTTP server ended")

    async def stop_listening(self) -> None:
        """Stop accepting requests; returns when the accepted ones are answered."""
        self._server.should_exit = True
        await self._serving


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
        self._waiting = Gauge("llambert_serve_waiting_texts", "texts that wait for a replica")
        seconds = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
        self._seconds = Histogram("llambert_serve_request_seconds", "from a request to its answer", boundaries=seconds)

    def answered(self, seconds: float, num_waiting: int) -> None:
        self.requests.inc(1, {"status": "200"})
        self._seconds.observe(seconds)
        self._waiting.set(num_waiting)
