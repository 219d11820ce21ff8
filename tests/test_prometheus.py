"""A whole run and an endpoint scraped by a real Prometheus: what the dashboard and the alerts ask for is there."""

import http.client
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest
import ray
import yaml

from llambert.pipeline import pipeline
from llambert.run import open_run
from llambert.serving.deployment import APPLICATION, ServeOptions, build
from tests.fixtures.tiny_classifier import save_tiny_classifier, tiny_texts
from tests.fixtures.tiny_llm import save_tiny_llm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="Prometheus is not installed: apt-get install prometheus"
    ),
]

CLUSTER = Path(__file__).parents[1] / "cluster"
DASHBOARD = json.loads((CLUSTER / "grafana.json").read_text())
RECIPE = """\
name: films
task: reviews
corpus: {path: films.csv, columns: {text: text}, rows_per_part: 40}
annotator: {model: ./llm, dtype: float32, prompt: completion, mode: score, num_records: 60, records_per_part: 20}
classifier: {model: ./encoder, epochs: 1, max_length: 32}
"""
# Ray exports no counter of nothing. These count faults, GPU-seconds and generated text; a healthy run on CPUs in mode
# `score` has none of them.
ABSENT = {
    "ray_llambert_errors_total",
    "ray_llambert_retries_total",
    "ray_llambert_accelerator_seconds_total",
    "ray_llambert_response_tokens_total",
}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Prometheus:
    """A server of cluster/prometheus.yaml; the path of Ray's file and the port are changed, nothing else."""

    def __init__(self, folder: Path, discovery: Path) -> None:
        self.started_at = time.time()
        config = (CLUSTER / "prometheus.yaml").read_text()
        (path,) = yaml.safe_load(config)["scrape_configs"][0]["file_sd_configs"][0]["files"]
        (folder / "prometheus.yaml").write_text(config.replace(path, str(discovery)))
        shutil.copy(CLUSTER / "alerts.yaml", folder)
        self.address = f"127.0.0.1:{free_port()}"
        command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [*command, f"--web.listen-address={self.address}"], cwd=folder, stdout=log, stderr=log
            )

    def get(self, path: str, **asked: str):
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]

    def graph(self, expression: str) -> list[dict]:
        """What a panel draws: the series of ``expression`` since the start that have a number at any time."""
        times = {"start": str(self.started_at), "end": str(time.time()), "step": "2"}
        drawn = self.get("query_range", query=expression, **times)["result"]
        return [one for one in drawn if any(value != "NaN" for _, value in one["values"])]

    def now(self, expression: str) -> dict[str, float]:
        """The values of an expression of one label, by that label."""
        found = self.get("query", query=expression)["result"]
        return {"".join(one["metric"].values()): float(one["value"][1]) for one in found}

    def alerts(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"]}


def wait_until(condition, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def ask(port: int, body: dict) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/label", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse().status


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """Prometheus after a run of the pipeline and while its classifier is served on the same cluster."""
    from ray import serve

    folder = tmp_path_factory.mktemp("films")
    save_tiny_llm(folder / "llm")
    save_tiny_classifier(folder / "encoder")
    (folder / "films.csv").write_text("\n".join(["text", *tiny_texts(119), '""']) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # and the cluster's processes with it
        context = ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False)
        discovery = Path(context.address_info["session_dir"], "prom_metrics_service_discovery.json")
        server = Prometheus(folder, discovery)
        try:
            pipeline(open_run("recipe.yaml", []))
            port = free_port()
            limits = {"head_timeout_s": 1}
            options = ServeOptions(run="recipe.yaml", listen=("127.0.0.1", port), limits=limits, cpus_per_replica=1)
            serve.start(proxy_location="Disabled")
            serve.run(build(options, on_this_machine=True), name=APPLICATION, route_prefix=None)
            yield server, port
        finally:
            ray.shutdown()
            server.process.terminate()
            server.process.wait(30)


def variables(server: Prometheus) -> dict[str, str]:
    """The dashboard's variables as Grafana sets them for All: the values that their queries find, as alternatives."""
    values = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
            found = server.get(f"label/{label}/values", **{"match[]": metric})
            values["$" + variable["name"]] = f"({'|'.join(found)})"
        elif variable["type"] == "textbox":
            values["$" + variable["name"]] = variable["query"]
    return values


def panels(values: dict[str, str]) -> dict[str, str]:
    """The expressions of the dashboard, by panel and target."""
    found = {}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            assert "$" not in expression, expression
            found[f"{panel['title']}: {target['refId']}"] = expression
    return found


def series_of(expressions: Iterable[str]) -> set[str]:
    return {name for one in expressions for name in re.findall(r"\bray_\w+[a-z]\b", one)}


def test_what_dashboard_and_alerts_ask_for_is_scraped_and_a_healthy_run_raises_no_alert(prometheus):
    server, port = prometheus
    with socket.create_connection(("127.0.0.1", port)) as silent:
        assert silent.recv(1000) == b""  # dropped: it asks for nothing

    def is_scraped() -> bool:
        assert ask(port, {"text": "a good film"}) == 200
        dropped = server.now("sum(ray_llambert_serve_dropped_connections_total)")
        times = "histogram_quantile(0.5, sum by (le) (rate(ray_llambert_serve_request_seconds_bucket[1m])))"
        return bool(dropped and server.graph(times))

    wait_until(is_scraped)
    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert {target["health"] for target in server.get("targets")["activeTargets"]} == {"up"}

    values = variables(server)
    assert values == {"$run": "(films)", "$stage": "(annotate|ingest|label)", "$usd_per_gpu_hour": "2.0"}
    drawn = {name: server.graph(expression) for name, expression in panels(values).items()}
    wanting = {name for name, found in drawn.items() if not found}
    assert {name for name in wanting if not series_of([panels(values)[name]]) <= ABSENT} == set()
    scraped = set(server.get("label/__name__/values"))
    asked = series_of([*panels(values).values(), *(rule["query"] for rule in rules)])
    assert len(asked) > 15
    assert asked - scraped == ABSENT

    records = server.now("sum by (stage) (ray_llambert_records_total)")
    assert records == {"ingest": 120, "annotate": 60, "label": 119}  # those of the manifests, after the replicas
    assert server.now("count by (stage) (ray_llambert_replicas)") == {}
    pending = {one["metric"]["alertname"] for one in server.graph("ALERTS")}
    assert pending <= {"LlambertStageStalled"}  # while a replica loads its model; it fires half an hour later
    assert server.alerts() == set()


def test_an_endpoint_that_is_deleted_on_purpose_is_known_to_be(prometheus):
    """What LlambertEndpointDown stands on: Serve exports the deletion long enough to be scraped."""
    from ray import serve

    server, _ = prometheus
    assert server.now("count(ray_llambert_serve_endpoints)") == {"": 1}
    serve.delete(APPLICATION)
    wait_until(lambda: not server.now("count(ray_llambert_serve_endpoints)"))
    assert server.now(f'last_over_time(ray_serve_application_status{{application="{APPLICATION}"}}[6h]) == 4')
    assert server.alerts() == set()
