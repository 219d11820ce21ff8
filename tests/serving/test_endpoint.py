"""The endpoint over real sockets, before a classifier that labels, waits or fails as a test says."""

import asyncio
import http.client
import json
import logging
import math
import socket
import threading
from contextlib import contextmanager

import pytest

from llambert.errors import InputError
from llambert.serving import endpoint as endpoint_module
from llambert.serving.endpoint import TOKEN_VARIABLE, Endpoint
from llambert.serving.requests import ANSWER_SCHEMA, Limits, Prediction
from tests.fixtures.http_client import connect, read_answer, wait_until

TOKEN = "s3cret-of-a-test"
JSON = "application/json"


class Remote:
    def __init__(self, function):
        self.remote = function


class Classifier:
    """Stands in for the handle of the Labellers."""

    def __init__(self):
        self.fails, self.hangs, self.calls = False, False, []
        self.categories = Remote(self._categories)

    async def _categories(self):
        return ["no", "yes"]

    async def remote(self, texts):
        self.calls.append(texts)
        while self.hangs:
            await asyncio.sleep(0.01)
        if self.fails or "poison" in texts:
            raise RuntimeError("the model failed on: " + texts[0])
        return [Prediction("yes", 0.75, (0.25, 0.75))] * len(texts)


class Server:
    def __init__(self, port, classifier):
        self.port, self.classifier = port, classifier

    def ask(self, body=b'{"text": "a"}', method="POST", path="/v1/label", token=f"Bearer {TOKEN}", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"Content-Type": JSON, "Authorization": token}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {name: value for name, value in sent.items() if value is not None})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, json.loads(content)

    def health(self):
        return self.ask(None, "GET", "/healthz", None)[0]


@contextmanager
def running(token=TOKEN, listens_at="127.0.0.1", thresholds=None, **limits):
    with pytest.MonkeyPatch.context() as patch, socket.socket() as free:
        patch.setenv(TOKEN_VARIABLE, token)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        classifier, loop = Classifier(), asyncio.new_event_loop()

        async def make():
            return Endpoint(classifier, Limits(**limits), False, (1, 1), (listens_at, port), thresholds)

        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        endpoint = asyncio.run_coroutine_threadsafe(make(), loop).result(20)
        try:
            server = Server(port, classifier)
            wait_until(lambda: server.health() == 200)
            yield server
        finally:
            classifier.hangs = False
            asyncio.run_coroutine_threadsafe(endpoint.stop_listening(), loop).result(20)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(20)


@pytest.fixture(scope="module")
def server():
    with running(max_request_bytes=100_000, timeout_s=2) as server:
        yield server


@pytest.fixture(scope="module")
def tokenless():
    with running(token="") as server:
        yield server


@pytest.fixture(autouse=True)
def _works(request):
    if "server" in request.fixturenames:
        classifier = request.getfixturevalue("server").classifier
        classifier.fails = classifier.hangs = False
        classifier.calls.clear()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_of_the_token_may_be_written_in_any_case(server, scheme):
    assert server.ask(token=f"{scheme} {TOKEN}")[0] == 200


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xe9"],
)
def test_without_the_token_nothing_is_labelled(server, header):
    status, answer = server.ask(token=header)
    assert status == 401
    assert TOKEN not in json.dumps(answer)
    assert server.classifier.calls == []


def test_a_token_from_a_file_may_end_with_a_newline():
    with running(token=TOKEN + "\n") as server:
        assert server.ask()[0] == 200
        assert server.ask(token="Bearer")[0] == 401


def test_a_token_of_spaces_is_none(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, " \n")
    with pytest.raises(InputError, match="a token is required"):
        Endpoint(None, Limits(), True, (1, 1), ("127.0.0.1", 1))


@pytest.mark.parametrize("kind", [JSON, "Application/JSON", f"{JSON}; charset=utf-8", f'{JSON};charset="UTF-8"'])
def test_json_is_accepted(server, kind):
    assert server.ask(Content_Type=kind)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": None},
        {"Content_Type": ""},
        {"Content_Type": "text/plain"},
        {"Content_Type": "text/plain; application/json"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "multipart/form-data; boundary=x"},
        {"Content_Type": f"{JSON}; charset=utf-16"},
        {"Content_Type": "application/jsonx"},
        {"Content_Encoding": "gzip"},
        {"Content_Encoding": "br"},
    ],
    ids=str,
)
def test_what_is_not_declared_as_plain_json_is_415(server, headers):
    """The types that a page of another site may send without asking are among these."""
    status, answer = server.ask(**headers)
    assert status == 415
    assert "--json" in answer["detail"] or "Content-Encoding" in answer["detail"]
    assert server.classifier.calls == []


def test_a_browser_that_asks_for_a_page_of_another_site_is_not_encouraged(server):
    connection = connect(server.port)
    connection.sendall(
        b"OPTIONS /v1/label HTTP/1.1\r\nhost: a\r\norigin: http://evil.example\r\n"
        b"access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n\r\n"
    )
    answer = read_answer(connection)
    assert answer is not None
    assert answer[0] == 405
    assert "access-control" not in answer[1]


def test_a_refused_token_is_answered_before_the_body_is_read(server):
    connection = connect(server.port)
    connection.sendall(b"POST /v1/label HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\n")
    answer = read_answer(connection)
    assert answer is not None
    assert answer[0] == 401


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE", "BREW", "HEAD"])
def test_other_methods_are_405(server, method):
    connection = connect(server.port)
    connection.sendall(f"{method} /v1/label HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    head = connection.recv(1000)
    assert head.startswith(b"HTTP/1.1 405 ")


def test_large_requests_that_arrive_together_are_limited_and_small_ones_pass():
    with running(max_request_bytes=100_000, max_held_bytes=200_000, timeout_s=20) as server:
        head = (
            f"POST /v1/label HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n"
            f"content-type: {JSON}\r\ncontent-length: 95000\r\n\r\n"
        ).encode()
        slow = [connect(server.port) for _ in range(6)]
        for connection in slow:
            connection.sendall(head + b" " * 90_000)
        refused = []

        def some_are_refused():
            for connection in slow:
                connection.settimeout(0.05)
                try:
                    answer = read_answer(connection)
                except TimeoutError:
                    continue
                if answer is not None:
                    refused.append(answer[0])
            return len(refused) >= 3

        wait_until(some_are_refused)
        assert set(refused) == {503}
        assert len(refused) < 6
        assert server.ask()[0] == 200
        for connection in slow:
            connection.close()
        wait_until(lambda: server.ask(json.dumps({"text": "a" * 90_000}).encode())[0] == 200)


def test_a_client_that_goes_away_leaves_no_texts_waiting():
    with running(batch_wait_s=3, timeout_s=20, max_waiting_texts=3) as server:
        server.classifier.hangs = True
        body = b'{"texts": ["a", "b"]}'
        head = (
            f"POST /v1/label HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n"
            f"content-type: {JSON}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        first = connect(server.port)
        first.sendall(head + body)
        wait_until(lambda: len(server.classifier.calls) == 1)
        gone = connect(server.port)
        gone.sendall(head + body)
        wait_until(lambda: server.ask(b'{"texts": ["c", "d", "e"]}')[0] == 503)  # its two texts wait
        gone.close()
        answers = []

        def later():
            answers.append(server.ask(b'{"texts": ["c", "d", "e"]}')[0])

        thread = threading.Thread(target=later)
        wait_until(lambda: server.health() == 200)
        thread.start()
        server.classifier.hangs = False
        thread.join(20)
        assert answers == [200]


def test_an_internal_error_is_500_and_unhealthy_until_a_text_is_labelled(server, caplog):
    server.classifier.fails = True
    with caplog.at_level(logging.ERROR):
        status, answer = server.ask(b'{"text": "a private text"}')
    assert status == 500
    assert "model failed" not in answer["detail"]
    assert "RuntimeError" in caplog.text
    assert "in remote" in caplog.text  # where it was raised
    assert "a private text" not in caplog.text  # which the message quotes
    assert TOKEN not in caplog.text
    assert server.health() == 503
    server.classifier.fails = False
    assert server.health() == 503
    assert server.ask()[0] == 200
    assert server.health() == 200


def test_health_finds_out_by_itself_that_the_classifier_works_again(server, monkeypatch):
    server.classifier.fails = True
    assert server.ask()[0] == 500
    monkeypatch.setattr(endpoint_module, "_PROBE_AFTER_S", 0.0)
    assert server.health() == 503
    server.classifier.fails = False
    assert server.health() == 200


def test_a_classifier_that_hangs_is_unhealthy(server):
    server.classifier.hangs = True
    assert server.ask()[0] == 504
    assert server.health() == 503
    server.classifier.hangs = False
    assert server.ask()[0] == 200
    assert server.health() == 200


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"{", {}), (b'{"text": 1}', {}), (b"{}", {"token": None}), (b"{}", {"Content_Type": "text/plain"})],
)
def test_requests_that_are_refused_leave_the_endpoint_healthy(server, body, headers):
    assert server.ask()[0] == 200
    assert 400 <= server.ask(body, **headers)[0] < 500
    assert server.health() == 200


def test_a_poisonous_text_fails_its_own_request_only_and_the_endpoint_stays_healthy():
    with running(timeout_s=60) as server:  # on a busy machine four requests take seconds
        server.classifier.calls.clear()
        server.classifier.hangs = True
        statuses = {}

        def client(text):
            statuses[text] = server.ask(json.dumps({"text": text}).encode())[0]

        threads = [threading.Thread(target=client, args=(text,)) for text in ("a", "b", "poison", "c")]
        threads[0].start()
        wait_until(lambda: len(server.classifier.calls) == 1)
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: sum(map(len, server.classifier.calls)) == 4)
        server.classifier.hangs = False
        for thread in threads:
            thread.join(20)
        assert statuses == {"a": 200, "b": 200, "c": 200, "poison": 500}
        assert server.ask()[0] == 200
        assert server.health() == 200


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:80", "[::1]:8000", "10.0.0.7"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/label"), ("GET", "/healthz"), ("GET", "/openapi.json")])
def test_without_a_token_an_endpoint_of_this_machine_answers_to_localhost_and_addresses(tokenless, host, method, path):
    assert tokenless.ask(method=method, path=path, token=None, Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "127.1", "", "[a]"],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/label"), ("GET", "/healthz"), ("GET", "/openapi.json")])
def test_without_a_token_a_name_that_anyone_can_point_here_is_421(tokenless, host, method, path):
    """DNS rebinding: a page of evil.example, whose name then stands for 127.0.0.1, would read the answers."""
    tokenless.classifier.calls.clear()
    status, answer = tokenless.ask(method=method, path=path, token=None, Host=host)
    assert status == 421
    assert "localhost" in answer["detail"]
    assert TOKEN_VARIABLE in answer["detail"]
    assert tokenless.classifier.calls == []


def test_with_a_token_any_name_is_answered(server):
    assert server.ask(Host="labels.example")[0] == 200


def test_an_endpoint_of_every_address_is_reached_by_any_name():
    with running(token="", listens_at="0.0.0.0") as server:
        assert server.ask(token=None, Host="labels.example")[0] == 200


@pytest.mark.parametrize(
    ("thresholds", "needs_review"),
    [
        (None, None),
        ({"": 0.75}, False),
        ({"": 0.7500001}, True),
        ({"no": 0.0, "yes": 0.9}, True),
        ({"no": 0.9, "yes": 0.0}, False),
        ({"": math.inf}, True),
    ],
)
def test_an_answer_says_whether_the_certificate_would_keep_its_label(thresholds, needs_review):
    with running(thresholds=thresholds) as server:
        status, answer = server.ask(b'{"texts": ["a", "b"], "probabilities": true}')
        _, description = server.ask(None, "GET", "/openapi.json", None)
    assert status == 200
    for result in answer["results"]:
        assert result.get("needs_review") is needs_review
        assert (result["label"], result["score"]) == ("yes", 0.75)
    assert json.dumps(ANSWER_SCHEMA["oneOf"][0]["properties"]["needs_review"]) in json.dumps(description)
