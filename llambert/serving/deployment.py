"""The classifier of a run behind HTTP: a Ray Serve application of two deployments.

``Endpoint`` speaks HTTP, validates requests, and gathers the texts of concurrent ones into calls; ``Labeller`` holds
the ``Classifier`` that the label stage uses and answers them. A call whose Labeller dies is retried on another.
Endpoints need no GPU and hold no model; Labellers may run on preemptible nodes. Endpoints listen themselves: Serve's
proxies limit neither the headers nor the connections of a client.
"""

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import ray
from pydantic import Field, PositiveInt
from ray import serve
from ray.util.metrics import Counter, Histogram

from llambert.classifier.inference import Classifier, validate_checkpoint
from llambert.errors import InputError, LabelFault
from llambert.execution.placement import node_resources
from llambert.execution.ray_executor import RAY
from llambert.recipe import LabelRecipe
from llambert.run import open_run
from llambert.section import Section, parse_value, parse_yaml, validate
from llambert.serving import review_thresholds
from llambert.serving.connections import allow_open_files, listen
from llambert.serving.endpoint import PROBE_TEXT, TOKEN_VARIABLE, Endpoint
from llambert.serving.requests import Limits, Prediction
from llambert.serving.review_thresholds import ReviewThresholds
from llambert.storage.locations import open_filesystem
from llambert.storage.manifest import MANIFEST
from llambert.storage.run_directory import RunDirectory

APPLICATION = "llambert"
_DRAIN_POLL_S = 0.2


class ServeOptions(Section):
    """What is served and with how many replicas: the ``args`` of cluster/serve.yaml."""

    run: str
    """A run directory (``s3://…`` too), a recipe file, or a checkpoint folder."""
    settings: tuple[str, ...] = ()
    """``key.path=value`` for a recipe file."""
    cpus_per_replica: float | None = Field(None, gt=0)
    """For this and the next two keys null means the value of the recipe's label stage; with ``llambert serve`` and if
    replicas need no GPU, the CPUs of this machine are divided among them."""
    gpus_per_replica: float | None = Field(None, ge=0)
    max_batch_tokens: PositiveInt | None = None
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 1
    node_resource: str | None = None
    """Custom resource of the nodes that replicas of the classifier may use (cluster/README.md); null: any node."""
    endpoints: PositiveInt = 1
    """Replicas of the HTTP side, each on another node; one is enough for some hundred requests a second."""
    endpoint_resource: str | None = None
    """Custom resource of the nodes where endpoints listen; ``node:__internal_head__``: the head node; null: any."""
    listen: tuple[str, int] = ("127.0.0.1", 8000)
    """Host and port at which each endpoint listens on its node."""
    require_token: bool = False
    """Fail to start without a token. If one is set, it is always required."""
    limits: Limits = Limits()


class Served(NamedTuple):
    """A checkpoint that is served, its label settings, and, of a run with a certificate, which labels need review."""

    checkpoint: str
    label: LabelRecipe
    review_thresholds: ReviewThresholds | None = None


def options(run: str, settings: list[str] | None, limits: list[str] | None, **placed: Any) -> ServeOptions:
    """Options from a command line; ``limits`` are ``key=value``. A token in the environment becomes required."""
    values: dict[str, Any] = {"run": run, "settings": settings or [], "limits": {}, **placed}
    for limit in limits or []:
        key, equals, value = limit.partition("=")
        if not equals:
            raise InputError(f"--limit {limit}: expected key=value")
        values["limits"][key] = parse_value(value, f"--limit {limit}")
    values["require_token"] = TOKEN_VARIABLE in os.environ
    return validate(ServeOptions, values, "", "llambert serve")


def app(args: dict[str, Any]) -> serve.Application:
    """What ``import_path: llambert.serving.deployment:app`` builds from ``args``; ``InputError`` if it cannot."""
    return build(validate(ServeOptions, args, "", "args"))


def build(options: ServeOptions, on_this_machine: bool = False) -> serve.Application:
    """The Serve application; ``InputError`` if its checkpoint cannot label."""
    checkpoint, label, thresholds = check(options)
    replicas = options.min_replicas, max(options.min_replicas, options.max_replicas)
    gpus = label.gpus_per_actor if options.gpus_per_replica is None else options.gpus_per_replica
    if gpus is None:
        gpus = _gpus_per_replica(options.node_resource, replicas[1], on_this_machine)
    cpus = _cpus_per_replica(replicas[1]) if on_this_machine and not gpus else None
    placed = {
        "cpus_per_actor": options.cpus_per_replica or cpus,
        "gpus_per_actor": float(gpus),
        "max_batch_tokens": options.max_batch_tokens,
    }
    label = label.model_copy(update={name: value for name, value in placed.items() if value is not None})
    drain_s = options.limits.timeout_s + 5
    labeller = Labeller.options(  # type: ignore[attr-defined]
        ray_actor_options={
            "num_cpus": label.cpus_per_actor,
            "num_gpus": label.gpus_per_actor,
            "resources": node_resources(options.node_resource),
        },
        graceful_shutdown_timeout_s=drain_s,
        graceful_shutdown_wait_loop_s=_DRAIN_POLL_S,
        health_check_period_s=2.0,  # three failures replace a replica
        max_ongoing_requests=2,  # one being computed, one already transferred
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": replicas[1],
            "target_ongoing_requests": 1.5,
            "upscale_delay_s": 10.0,
            "downscale_delay_s": 120.0,
        },
    )
    here = f"node:{ray.util.get_node_ip_address()}" if on_this_machine else options.endpoint_resource
    endpoint = serve.deployment(Endpoint).options(  # type: ignore[attr-defined]
        num_replicas=options.endpoints,
        max_replicas_per_node=1,
        ray_actor_options={"num_cpus": 0, "resources": node_resources(here)},
        graceful_shutdown_timeout_s=drain_s,
        graceful_shutdown_wait_loop_s=_DRAIN_POLL_S,
    )
    return endpoint.bind(
        labeller.bind(checkpoint, label), options.limits, options.require_token, replicas, options.listen, thresholds
    )


def check(options: ServeOptions) -> Served:
    """What is served; ``InputError`` if it cannot label, or the run's certificate is of another. Needs no Ray."""
    served = find_checkpoint(options.run, list(options.settings))
    validate_checkpoint(served.checkpoint, served.label.trust_remote_code)
    return served


def _gpus_per_replica(node_resource: str | None, num_replicas: int, on_this_machine: bool) -> float:
    """One where there is one; on this machine, a share that leaves each replica its own."""
    if RAY.half_precision(node_resource) is None:
        return 0.0
    if not on_this_machine:
        return 1.0
    here = ray.util.get_node_ip_address()
    num = sum(node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["NodeManagerAddress"] == here)
    return float(min(1.0, num / num_replicas))


def _cpus_per_replica(num_replicas: int) -> float:
    here = ray.util.get_node_ip_address()
    num_cpus = max(node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["NodeManagerAddress"] == here)
    return float(max(1, num_cpus // num_replicas))


def find_checkpoint(run: str, settings: list[str]) -> Served:
    """What ``run`` refers to; ``InputError`` if there is no checkpoint. The folder of one has no certificate."""
    if Path(run).is_file():
        opened = open_run(run, settings).last_read()
        thresholds = review_thresholds.of_run(opened, opened.table("checkpoint").require_manifest())
        return Served(_absolute(opened.table("checkpoint").uri), opened.recipe.label, thresholds)
    if settings:
        raise InputError(f"--set requires a recipe file, and {run} is not one")
    filesystem, path = open_filesystem(run)
    if filesystem.exists(f"{path}/config.json"):
        return Served(_absolute(run), LabelRecipe())
    directory = RunDirectory(run)
    directory.check_layout()
    text = directory.read("recipe.yaml")
    complete = _complete_checkpoints(filesystem, f"{path}/checkpoint")
    if len(complete) != 1:
        found = f"{len(complete)} ({', '.join(complete)}): name the folder of one" if complete else "none"
        raise InputError(f"{run}: expected one complete checkpoint in checkpoint/, found {found}")
    recipe = parse_yaml(text, f"{run}/recipe.yaml")
    label = validate(LabelRecipe, recipe.get("label", {}), "", f"{run}/recipe.yaml: label")
    checkpoint = directory.table("checkpoint", complete[0])
    thresholds = review_thresholds.of_directory(directory, recipe, checkpoint.require_manifest())
    return Served(_absolute(checkpoint.uri), label, thresholds)


def _complete_checkpoints(filesystem: fsspec.AbstractFileSystem, folder: str) -> list[str]:
    """Fingerprints of the complete tables in a run's folder of checkpoints."""
    try:
        tables = [str(table).rstrip("/") for table in filesystem.ls(folder, detail=False)]
    except FileNotFoundError:
        return []
    return sorted(table.rpartition("/")[2] for table in tables if filesystem.exists(f"{table}/{MANIFEST}"))


def _absolute(uri: str) -> str:
    """An absolute URI: a replica has another working directory."""
    return uri if "://" in uri else os.path.abspath(uri)


class _LabellerMetrics:
    """``llambert_serve_*`` of one replica: what it labelled, and how long its model worked."""

    def __init__(self) -> None:
        self._texts = Counter("llambert_serve_texts", "texts by label, or by error", ("label",))
        self._tokens = Counter("llambert_serve_tokens", "tokens labelled")
        self._busy = Counter("llambert_serve_busy_seconds", "seconds that the model worked")
        self._sizes = Histogram("llambert_serve_call_texts", "texts a call", boundaries=[1, 4, 16, 64, 256, 1024])

    def add(self, predictions: list[Prediction], num_tokens: int, busy_seconds: float) -> None:
        names = [prediction.label or prediction.error or "" for prediction in predictions]
        for name in set(names):
            self._texts.inc(names.count(name), {"label": name})
        if num_tokens:
            self._tokens.inc(num_tokens)
        if busy_seconds > 0:
            self._busy.inc(busy_seconds)
        self._sizes.observe(len(predictions))


@serve.deployment
class Labeller:
    """One replica: the label stage's classifier, called with texts by one thread."""

    def __init__(self, checkpoint: str, label: LabelRecipe) -> None:
        self._classifier = Classifier.from_recipe(checkpoint, label, few_texts=True)
        self._thread = ThreadPoolExecutor(1, "classifier")
        self._metrics = _LabellerMetrics()
        self._is_broken = False
        self._classifier.predict([PROBE_TEXT])  # the first call is slow

    def categories(self) -> list[str]:
        """The category names, in the order of a prediction's probabilities."""
        return self._classifier.categories

    def check_health(self) -> None:
        """Called by Serve, which replaces this replica if its model fails on every text, as after a CUDA error."""
        if self._is_broken:
            raise RuntimeError("the model fails on every text")

    async def __call__(self, texts: list[str]) -> list[Prediction]:
        """A prediction on each text, in their order."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._label, texts)

    def _label(self, texts: list[str]) -> list[Prediction]:
        # Blank texts are rejected, as in a corpus; the others keep their places.
        rows = [row for row, text in enumerate(texts) if text and not text.isspace()]
        fault: RuntimeError | None = None
        try:
            found = self._classifier.predict([texts[row] for row in rows])
        except Exception as error:
            # Serve logs it: without the message, which may quote a text.
            fault = RuntimeError(f"{type(error).__name__} in the classifier").with_traceback(error.__traceback__)
        if fault is not None:
            self._check_model()
            raise fault
        if rows and len(found.failures) == len(rows):
            self._check_model()
        predictions = [Prediction(None, 0.0, (), LabelFault.EMPTY_TEXT)] * len(texts)
        columns = zip(rows, found.labels, found.scores.tolist(), found.probabilities.tolist(), strict=True)
        for position, (row, label, score, probabilities) in enumerate(columns):
            predictions[row] = Prediction(label, score, probabilities, found.failures.get(position))
        self._metrics.add(predictions, found.num_tokens, found.busy_seconds)
        return predictions

    def _check_model(self) -> None:
        """After a failure: one text that no model can label must not cost a replica, a model that labels none must."""
        self._is_broken = True
        failures = self._classifier.predict([PROBE_TEXT]).failures
        if failures:
            raise RuntimeError(f"the model fails on every text: {failures[0]}")
        self._is_broken = False


def serve_until_stopped(options: ServeOptions) -> None:
    """Serve on the connected Ray cluster until SIGINT or SIGTERM, then answer the accepted requests."""
    allow_open_files(options.limits.max_connections)
    try:
        listen(options.listen).close()
    except OSError as error:
        raise InputError(f"cannot listen at {options.listen[0]}:{options.listen[1]}: {error.strerror}") from error
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    application = build(options, on_this_machine=True)
    quiet = {"enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=quiet)
    endpoint = serve.run(application, name=APPLICATION, route_prefix=None, logging_config=quiet)
    metrics = next(f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"])
    host, port = options.listen
    print(f"serving {options.run} at http://{host}:{port}/v1/label; /docs describes it", flush=True)
    print(f"metrics for Prometheus, on each node: http://{metrics}/metrics", flush=True)
    stop.wait()
    print("stopping: answering the accepted requests", flush=True)
    try:
        endpoint.stop_listening.remote().result()
    finally:
        serve.delete(APPLICATION)
