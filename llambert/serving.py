"""The classifier of a run behind HTTP: a Ray Serve application of two deployments.

``Endpoint`` speaks HTTP, looks at each request, and gathers the texts of concurrent ones into calls;
``Labeller`` holds the ``Classifier`` that the label stage uses and answers them. A call whose Labeller dies is
made once more, on another. Endpoints need no GPU and hold no model; Labellers may stand on nodes that come and go.

::

    POST /v1/label   {"text": "…"} -> {"label": "positive", "score": 0.98}
                     {"texts": ["…", "…"], "probabilities": true} -> {"results": [{"label": …}, …]}
    GET  /healthz    200 where a text can be labelled now, 503 otherwise
    GET  /docs       OpenAPI
"""

import asyncio
import hmac
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import Field, PositiveInt
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Gauge, Histogram

from llambert.classifier import Classifier
from llambert.errors import InputError
from llambert.placement import node_claim
from llambert.recipe import LabelRecipe
from llambert.run import open_run
from llambert.run_directory import MANIFEST, RunDirectory, open_filesystem
from llambert.section import Section, parse_yaml, validate
from llambert.serving_requests import (
    REQUEST_SCHEMA,
    Batcher,
    LabelRequest,
    Limits,
    Refusal,
    Verdict,
    parse_request,
    render,
)

APPLICATION = "llambert"
TOKEN_VARIABLE = "LLAMBERT_SERVE_TOKEN"
"""Where an endpoint finds the bearer token it asks for. Never an argument: Serve shows those in the dashboard."""

_HEALTHY_FOR_S = 10.0
_HEALTH_TIMEOUT_S = 5.0
_DRAIN_POLL_S = 0.2


class ServeOptions(Section):
    """What is served and how wide: the ``args`` of cluster/serve.yaml."""

    run: str
    """A run directory (``s3://…`` too), a recipe file, or a checkpoint folder."""
    settings: tuple[str, ...] = ()
    """``key.path=value`` for a recipe file."""
    cpus_per_replica: float | None = Field(None, gt=0)
    """This and the next two: null is what the recipe's label stage has."""
    gpus_per_replica: float | None = Field(None, ge=0)
    max_batch_tokens: PositiveInt | None = None
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 1
    node_resource: str | None = None
    """Custom resource of the nodes that replicas of the classifier may use (cluster/README.md); null: any node."""
    endpoints: PositiveInt = 1
    """Replicas of the HTTP side; one is enough for some hundred requests a second."""
    require_token: bool = False
    """Do not start without a token; where one is set, it is always asked for."""
    limits: Limits = Limits()


def options(run: str, settings: list[str] | None, limits: list[str] | None, **placed: Any) -> ServeOptions:
    """Options from a command line; ``limits`` are ``key=value``. A token in the environment becomes required."""
    values: dict[str, Any] = {"run": run, "settings": settings or [], "limits": {}, **placed}
    for limit in limits or []:
        key, equals, value = limit.partition("=")
        if not equals:
            raise InputError(f"--limit {limit}: expected key=value")
        values["limits"][key] = parse_yaml(f"value: {value}", f"--limit {limit}")["value"]
    values["require_token"] = TOKEN_VARIABLE in os.environ
    return validate(ServeOptions, values, "", "llambert serve")


def app(args: dict[str, Any]) -> serve.Application:
    """What ``import_path: llambert.serving:app`` builds from ``args``; ``InputError`` if it cannot be served."""
    return build(validate(ServeOptions, args, "", "args"))


def build(options: ServeOptions) -> serve.Application:
    """The application, its checkpoint looked up."""
    checkpoint, label = find_checkpoint(options.run, list(options.settings))
    placed = {
        "cpus_per_actor": options.cpus_per_replica,
        "gpus_per_actor": options.gpus_per_replica,
        "max_batch_tokens": options.max_batch_tokens,
    }
    label = label.model_copy(update={name: value for name, value in placed.items() if value is not None})
    drain_s = options.limits.timeout_s + 5
    labeller = Labeller.options(  # type: ignore[attr-defined]
        ray_actor_options={
            "num_cpus": label.cpus_per_actor,
            "num_gpus": label.gpus_per_actor,
            "resources": node_claim(options.node_resource),
        },
        graceful_shutdown_timeout_s=drain_s,
        graceful_shutdown_wait_loop_s=_DRAIN_POLL_S,
        max_ongoing_requests=2,  # one at work, one that need not travel when it is done
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": max(options.max_replicas, options.min_replicas),
            "target_ongoing_requests": 1.5,
            "upscale_delay_s": 10.0,
            "downscale_delay_s": 120.0,
        },
    )
    endpoint = Endpoint.options(  # type: ignore[attr-defined]
        num_replicas=options.endpoints,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=drain_s,
        graceful_shutdown_wait_loop_s=_DRAIN_POLL_S,
        max_ongoing_requests=1_000,  # the limits of texts that wait are ours
        max_queued_requests=1_000,
    )
    return endpoint.bind(labeller.bind(checkpoint, label), options)


def find_checkpoint(run: str, settings: list[str]) -> tuple[str, LabelRecipe]:
    """The checkpoint that ``run`` stands for, and how its label stage labels; ``InputError`` if there is none."""
    if Path(run).is_file():
        opened = open_run(run, settings)
        opened.table("checkpoint").require_manifest()
        return _absolute(opened.table("checkpoint").uri), opened.recipe.label
    if settings:
        raise InputError(f"--set goes with a recipe file, and {run} is none")
    filesystem, path = open_filesystem(run)
    if filesystem.exists(f"{path}/config.json"):
        return _absolute(run), LabelRecipe()
    text = RunDirectory(run).read("recipe.yaml")
    complete = sorted(name.split("/")[-2] for name in filesystem.glob(f"{path}/checkpoint/*/{MANIFEST}"))
    if len(complete) != 1:
        found = f"{len(complete)} ({', '.join(complete)}): name the folder of one" if complete else "none"
        raise InputError(f"{run}: expected one complete checkpoint in checkpoint/, found {found}")
    section = parse_yaml(text, f"{run}/recipe.yaml").get("label", {})
    recipe = validate(LabelRecipe, section, "", f"{run}/recipe.yaml: label")
    return _absolute(f"{run.rstrip('/')}/checkpoint/{complete[0]}"), recipe


def _absolute(uri: str) -> str:
    """A replica's working directory is not ours."""
    return uri if "://" in uri else os.path.abspath(uri)


# Above the deployments: `serve.ingress` pickles its class at once, with what this module has by then.


async def _body(request: Request, max_bytes: int) -> bytes:
    """The request's body, read no further than ``max_bytes``."""
    too_large = Refusal(413, f"the request is larger than {max_bytes:,} bytes: send several")
    if int(request.headers.get("content-length") or 0) > max_bytes:
        raise too_large
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_bytes:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def _refuse(refusal: Refusal) -> JSONResponse:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(refusal.status)
    return JSONResponse({"detail": refusal.reason}, refusal.status, headers)


class _LabellerMetrics:
    """``llambert_serve_*`` of one replica: what it labelled, and how long its model took."""

    def __init__(self) -> None:
        self._texts = Counter("llambert_serve_texts", "texts by label, or by what they failed of", ("label",))
        self._tokens = Counter("llambert_serve_tokens", "tokens labelled")
        self._busy = Counter("llambert_serve_busy_seconds", "seconds that the model worked")
        self._sizes = Histogram("llambert_serve_call_texts", "texts a call", boundaries=[1, 4, 16, 64, 256, 1024])

    def add(self, verdicts: list[Verdict], num_tokens: int, busy_seconds: float) -> None:
        names = [verdict.label or verdict.error or "" for verdict in verdicts]
        for name in set(names):
            self._texts.inc(names.count(name), {"label": name})
        if num_tokens:
            self._tokens.inc(num_tokens)
        if busy_seconds > 0:
            self._busy.inc(busy_seconds)
        self._sizes.observe(len(verdicts))


class _EndpointMetrics:
    """``llambert_serve_*`` of one endpoint: requests by what became of them, and how long the answered ones took."""

    def __init__(self) -> None:
        self._requests = Counter("llambert_serve_requests", "requests by HTTP status", ("status",))
        self._retries = Counter("llambert_serve_retries", "calls made once more because a replica died")
        self._waiting = Gauge("llambert_serve_waiting_texts", "texts that wait for a replica")
        seconds = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
        self._seconds = Histogram("llambert_serve_request_seconds", "from a request to its answer", boundaries=seconds)

    def answered(self, num_texts: int, seconds: float, num_waiting: int) -> None:
        self._requests.inc(1, {"status": "200"})
        self._seconds.observe(seconds)
        self._waiting.set(num_waiting)

    def refused(self, status: int) -> None:
        self._requests.inc(1, {"status": str(status)})

    def retried(self) -> None:
        self._retries.inc()


@serve.deployment
class Labeller:
    """One replica: the label stage's classifier, called with texts by one thread."""

    def __init__(self, checkpoint: str, label: LabelRecipe) -> None:
        self._classifier = Classifier(
            checkpoint,
            dtype=label.dtype,
            max_batch_tokens=label.max_batch_tokens,
            device="cuda" if label.gpus_per_actor > 0 else "cpu",
            num_threads=max(1, round(label.cpus_per_actor)),
            few_texts=True,
        )
        self._thread = ThreadPoolExecutor(1, "classifier")
        self._metrics = _LabellerMetrics()
        self._classifier.predict(["the first call is slow"])

    def categories(self) -> list[str]:
        """Their order is that of a verdict's probabilities."""
        return self._classifier.categories

    async def __call__(self, texts: list[str]) -> list[Verdict]:
        """A verdict on each text, in their order."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._label, texts)

    def _label(self, texts: list[str]) -> list[Verdict]:
        # Blank texts are no records for the corpus either; the others keep their places.
        rows = [row for row, text in enumerate(texts) if text and not text.isspace()]
        predictions = self._classifier.predict([texts[row] for row in rows])
        verdicts = [Verdict(None, 0.0, (), "empty_text")] * len(texts)
        for position, (row, label, score) in enumerate(
            zip(rows, predictions.labels, predictions.scores.tolist(), strict=True)
        ):
            error = predictions.failures.get(position)
            verdicts[row] = Verdict(label, score, predictions.probabilities[position].tolist(), error)
        self._metrics.add(verdicts, predictions.num_tokens, predictions.busy_seconds)
        return verdicts


_api = FastAPI(title="llambert", description="Labels for texts, by the classifier of a run.", redoc_url=None)
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "A label, or results in the order of the texts."},
    400: {"description": "The body is not JSON."},
    401: {"description": "The bearer token is missing or another."},
    413: {"description": "A text, their number or the whole request is too large."},
    422: {"description": "The body has another shape."},
    503: {"description": "Too much is waiting, or no replica is there: come again."},
    504: {"description": "No answer in time."},
}


@serve.deployment
@serve.ingress(_api)
class Endpoint:
    """The HTTP side. What it refuses it refuses with a status, a reason, and a count of each."""

    def __init__(self, labeller: DeploymentHandle, options: ServeOptions) -> None:
        self._token = os.environ.get(TOKEN_VARIABLE, "").encode()
        if options.require_token and not self._token:
            raise InputError(f"{TOKEN_VARIABLE} is not set on this node, and a token was to be asked for")
        self._labeller, self._limits = labeller, options.limits
        self._batcher = Batcher(self._call, options.limits, options.min_replicas, options.max_replicas)
        self._categories: list[str] = []
        self._answered_at = float("-inf")
        self._metrics = _EndpointMetrics()

    @_api.post(
        "/v1/label",
        summary="Label one text or many",
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": REQUEST_SCHEMA}}}},
        responses=_ANSWERS,
    )
    async def label(self, request: Request) -> JSONResponse:
        """Labels, with their probabilities as scores; a text that cannot be labelled has an ``error`` instead."""
        started = time.perf_counter()
        try:
            self._authorise(request.headers.get("authorization", ""))
            asked = parse_request(await _body(request, self._limits.max_request_bytes), self._limits)
            body = await self._answer(asked)
        except Refusal as refusal:
            self._metrics.refused(refusal.status)
            return _refuse(refusal)
        self._metrics.answered(len(asked.texts), time.perf_counter() - started, self._batcher.num_waiting)
        return JSONResponse(body)

    @_api.get("/healthz", summary="Whether a text can be labelled now")
    async def health(self) -> JSONResponse:
        """200 where a replica answered within ten seconds, or answers now within five; otherwise 503."""
        if time.monotonic() - self._answered_at > _HEALTHY_FOR_S:
            try:
                async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                    await self._learn_categories()
            except (TimeoutError, RayActorError):
                return _refuse(Refusal(503, "no replica of the classifier answers"))
        return JSONResponse({"status": "ok", "categories": self._categories})

    def _authorise(self, header: str) -> None:
        expected = b"Bearer " + self._token
        if self._token and not hmac.compare_digest(header.encode("utf-8", "replace"), expected):
            raise Refusal(401, "this endpoint wants its token: Authorization: Bearer …")

    async def _answer(self, asked: LabelRequest) -> dict[str, Any]:
        verdicts = await self._batcher.label(asked.texts)
        if not self._categories:
            await self._learn_categories()
        return render(asked, verdicts, self._categories)

    async def _learn_categories(self) -> None:
        self._categories = await self._labeller.categories.remote()
        self._answered_at = time.monotonic()

    async def _call(self, texts: list[str]) -> list[Verdict]:
        """A call of a replica, made once more if the replica dies: labelling twice changes nothing."""
        try:
            verdicts = await self._labeller.remote(texts)
        except RayActorError:
            self._metrics.retried()
            try:
                verdicts = await self._labeller.remote(texts)
            except RayActorError as error:
                raise Refusal(503, "two replicas died with this request") from error
        self._answered_at = time.monotonic()
        return verdicts


def serve_until_stopped(options: ServeOptions, host: str, port: int) -> None:
    """Serve on the Ray cluster this process is connected to until SIGINT or SIGTERM, then answer what was accepted."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    application = build(options)
    timeout_s = options.limits.timeout_s + 5
    serve.start(
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=timeout_s),
        logging_config={"enable_access_log": False},
    )
    serve.run(application, name=APPLICATION, route_prefix="/", logging_config={"enable_access_log": False})
    metrics = next(f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"])
    print(f"serving {options.run} at http://{host}:{port}/v1/label; /docs describes it", flush=True)
    print(f"metrics for Prometheus, on each node: http://{metrics}/metrics", flush=True)
    stop.wait()
    print("stopping: requests that were accepted are answered", flush=True)
    serve.delete(APPLICATION)
