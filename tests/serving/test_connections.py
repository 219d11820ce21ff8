"""The server against strangers: real sockets, an application that reads the body and waits when it is asked to."""

import asyncio
import threading
from collections import Counter
from contextlib import contextmanager

import psutil
import pytest
from starlette.requests import Request
from starlette.responses import Response

from llambert.errors import InputError
from llambert.serving.connections import MAX_HEAD_BYTES, MAX_HEADERS, Server, listen
from llambert.serving.requests import Limits
from tests.fixtures.http_client import connect, is_closed, read_all, read_answer, send_for, wait_until

LIMITS = {"head_timeout_s": 0.5, "timeout_s": 1.5, "max_connections": 20, "max_request_bytes": 100_000}
POST = b"POST /echo HTTP/1.1\r\nhost: test\r\n"


class Running:
    """A server in a thread, what it counted, and its requests that wait on ``/wait`` until ``release`` is set."""

    def __init__(self, port):
        self.port = port
        self.refused, self.dropped, self.cancelled = Counter(), Counter(), []
        self.num_waiting, self.release = 0, threading.Event()
        self.bodies = []

    async def application(self, scope, receive, send):
        request = Request(scope, receive)
        if scope["path"] == "/large":
            return await Response(b"x" * 5_000_000)(scope, receive, send)
        if scope["path"] == "/fail":
            raise RuntimeError("a fault of the application")
        if scope["path"] == "/refuse":
            return await Response("no", 413)(scope, receive, send)
        body = await request.body()
        self.bodies.append(body)
        if scope["path"] == "/wait":
            self.num_waiting += 1
            try:
                while not self.release.is_set():
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.cancelled.append(body)
                raise
            finally:
                self.num_waiting -= 1
        return await Response(str(len(body)))(scope, receive, send)

    def is_answering(self):
        connection = connect(self.port)
        connection.sendall(POST + b"content-length: 3\r\n\r\nabc")
        answer = read_answer(connection)
        connection.close()
        return answer is not None and answer[0] == 200


@contextmanager
def running(**limits):
    listening = listen(("127.0.0.1", 0))
    state = Running(listening.getsockname()[1])
    server = Server(
        state.application,
        Limits(**{**LIMITS, **limits}),
        lambda status: state.refused.update([status]),
        lambda reason: state.dropped.update([reason]),
        1,
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield state
    finally:
        state.release.set()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server():
    with running() as state:
        yield state


@pytest.fixture(autouse=True)
def _fresh_counts(request):
    if "server" in request.fixturenames:
        state = request.getfixturevalue("server")
        state.refused.clear()
        state.dropped.clear()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400, id="TLS hello"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="HTTP/2 preface"),
        pytest.param(bytes(range(256)) * 10, 400, id="every byte"),
        pytest.param(b"GET /\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/3.7\r\nhost: a\r\n\r\n", 505, id="unknown version"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, id="two hosts"),
        pytest.param(POST + b"a header without a colon\r\n\r\n", 400, id="no colon"),
        pytest.param(POST + b"name : value\r\n\r\n", 400, id="space before the colon"),
        pytest.param(POST + b"name: a\x00b\r\n\r\n", 400, id="NUL in a header"),
        pytest.param(POST + b"content-length: -1\r\n\r\n", 400, id="negative length"),
        pytest.param(POST + b"content-length: 3x\r\n\r\n", 400, id="length with letters"),
        pytest.param(POST + b"content-length: " + b"9" * 5000 + b"\r\n\r\n", 400, id="length of 5,000 digits"),
        pytest.param(POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc", 400, id="two lengths"),
        pytest.param(POST + b"content-length: 3, 4\r\n\r\nabc", 400, id="two lengths in one header"),
        pytest.param(
            POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="length and chunks"
        ),
        pytest.param(b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="chunks in HTTP/1.0"),
        pytest.param(POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, id="compressed chunks"),
        pytest.param(POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501, id="almost chunked"),
        pytest.param(POST + b"transfer-encoding: chunked\r\n\r\n-5\r\nabcde\r\n", 400, id="negative chunk"),
        pytest.param(POST + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n", 400, id="huge chunk"),
        pytest.param(POST + b"transfer-encoding: chunked\r\n\r\n3;" + b"x" * 20_000, 431, id="endless chunk header"),
        pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 431, id="URL of 20,000 characters"),
        pytest.param(POST + b"x: " + b"y" * 20_000 + b"\r\n\r\n", 431, id="large header"),
        pytest.param(POST + b"x: a\r\n y\r\n" + b" folded\r\n" * 4000 + b"\r\n", 431, id="folded header"),
        pytest.param(POST + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431, id="many headers"),
    ],
)
def test_what_is_invalid_or_ambiguous_is_refused_counted_and_closed(server, sent, status):
    connection = connect(server.port)
    connection.sendall(sent)
    answer = read_answer(connection)
    assert answer is not None
    assert answer[0] == status
    assert "connection: close" in answer[1]
    assert b"detail" in answer[2]
    assert read_all(connection) == b""
    assert sum(server.refused.values()) == 1
    assert server.refused[status] == 1
    assert server.is_answering()


def test_a_smuggled_request_is_not_answered(server):
    connection = connect(server.port)
    smuggled = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
    head = POST + b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n" % (5 + len(smuggled))
    connection.sendall(head + b"0\r\n\r\n" + smuggled)
    answers = read_all(connection)
    assert answers is not None
    assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("piece", [b"a: b\r\n" * 1000, b"y" * 6000], ids=["many headers", "one header"])
def test_headers_without_end_are_cut_off_and_take_no_memory(server, piece):
    before = psutil.Process().memory_info().rss
    connection = connect(server.port)
    connection.sendall(POST + b"x: ")
    send_for(connection, piece, 0, 5)
    wait_until(lambda: server.refused[431] == 1)
    assert psutil.Process().memory_info().rss - before < 20e6
    assert server.is_answering()


@pytest.mark.parametrize(
    ("sent", "piece", "status"),
    [
        pytest.param(b"", b"", None, id="nothing"),
        pytest.param(b"POST /ec", b"h", 408, id="a request line, a byte at a time"),
        pytest.param(POST + b"x: ", b"y", 408, id="a header, a byte at a time"),
        pytest.param(POST, b"x: y\r\n", 408, id="headers, one at a time"),
        pytest.param(POST + b"content-length: 50000\r\n\r\n", b"y", 408, id="a body, a byte at a time"),
        pytest.param(POST + b"content-length: 50000\r\n\r\n", b"", 408, id="a body that does not begin"),
        pytest.param(
            POST + b"expect: 100-continue\r\ncontent-length: 50000\r\n\r\n", b"", 408, id="a body that was asked for"
        ),
        pytest.param(POST + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n", 408, id="chunks, one at a time"),
    ],
)
def test_what_arrives_slowly_is_cut_off(server, sent, piece, status):
    connection = connect(server.port)
    connection.sendall(sent)
    if piece:
        send_for(connection, piece, 0.05, 8)
    received = read_all(connection)
    assert received is not None
    received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    if status is None:
        assert received == b""
        assert server.dropped["head"] == 1
    else:
        assert received.startswith(b"HTTP/1.1 408 ")
        assert server.refused == {408: 1}
    assert server.is_answering()


def test_a_body_without_end_is_discarded_up_to_a_limit_after_its_refusal(server):
    connection = connect(server.port)
    connection.sendall(b"POST /refuse HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    answer = read_answer(connection)
    assert answer is not None
    assert answer[0] == 413
    assert send_for(connection, b"3e8\r\n" + b"x" * 1000 + b"\r\n", 0, 8) < 5_000_000  # the kernel's buffers hold some
    wait_until(lambda: server.dropped["body"] == 1)


def test_a_refused_body_is_read_to_its_end_and_the_connection_goes_on(server):
    connection = connect(server.port)
    connection.sendall(b"POST /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\n" + b"x" * 90_000)
    answer = read_answer(connection)
    assert answer is not None
    assert answer[0] == 413
    connection.sendall(POST + b"content-length: 2\r\n\r\nab")
    answer = read_answer(connection)
    assert answer is not None
    assert answer[::2] == (200, b"2")


def test_an_idle_connection_is_closed(monkeypatch):
    monkeypatch.setattr("llambert.serving.connections.KEEP_ALIVE_S", 1)
    with running() as server:
        connection = connect(server.port)
        connection.sendall(POST + b"content-length: 1\r\n\r\na")
        answer = read_answer(connection)
        assert answer is not None
        assert answer[0] == 200
        assert read_all(connection) == b""


def test_a_client_that_does_not_read_its_answer_is_dropped(server):
    connection = connect(server.port)
    connection.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
    wait_until(lambda: server.dropped["answer_not_read"] == 1)


def test_pipelined_requests_are_answered_in_order_and_not_all_read_at_once():
    with running() as server:
        connection = connect(server.port)
        before = psutil.Process().memory_info().rss
        wait = b"POST /wait HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na"
        connection.sendall(wait + POST + b"content-length: 2\r\n\r\nab")
        connection.settimeout(0.5)
        assert send_for(connection, b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n" * 1000, 0, 30) < 100e6
        assert server.num_waiting == 1
        assert server.bodies == [b"a"]
        assert psutil.Process().memory_info().rss - before < 20e6
        server.release.set()
        connection.settimeout(10)
        received = connection.recv(10_000)
        while received.count(b"HTTP/1.1 200") < 3:
            received += connection.recv(10_000)
        assert [body[-1:] for body in received.split(b"HTTP/1.1 200 ")[1:3]] == [b"1", b"2"]


def test_a_client_that_goes_away_cancels_its_request(server):
    connection = connect(server.port)
    connection.sendall(b"POST /wait HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\ngone")
    wait_until(lambda: server.num_waiting == 1)
    connection.close()
    wait_until(lambda: server.num_waiting == 0)
    assert server.cancelled == [b"gone"]
    assert server.refused == {499: 1}


def test_a_fault_of_the_application_is_500_and_counted(server):
    connection = connect(server.port)
    connection.sendall(b"GET /fail HTTP/1.1\r\nhost: a\r\n\r\n")
    received = read_all(connection)
    assert received is not None
    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"fault" not in received
    assert server.refused == {500: 1}


def test_half_open_connections_make_room_and_those_being_answered_stay():
    with running(head_timeout_s=60, timeout_s=60) as server:
        waiting = connect(server.port)
        waiting.sendall(b"POST /wait HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na")
        wait_until(lambda: server.num_waiting == 1)
        starts = (b"", POST + b"x: ", POST + b"content-length: 9\r\n\r\nabc")
        half_open = [connect(server.port) for _ in range(200)]
        for number, connection in enumerate(half_open):
            try:
                connection.sendall(starts[number % 3])
            except OSError:
                continue
            if number % 20 == 0:
                assert server.is_answering()
        assert server.is_answering()
        wait_until(lambda: sum(not is_closed(connection) for connection in half_open) < LIMITS["max_connections"])
        server.release.set()
        answer = read_answer(waiting)
        assert answer is not None
        assert answer[0] == 200


def test_room_is_made_at_the_address_with_the_most_connections():
    with running(head_timeout_s=60) as server:
        other = connect(server.port, "127.0.0.2")
        other.sendall(POST)
        flood = [connect(server.port) for _ in range(200)]
        wait_until(lambda: sum(not is_closed(connection) for connection in flood) < LIMITS["max_connections"])
        other.sendall(b"content-length: 1\r\n\r\na")
        answer = read_answer(other)
        assert answer is not None
        assert answer[0] == 200


def test_when_every_connection_is_being_answered_another_gets_503():
    with running(max_connections=3) as server:
        busy = [connect(server.port) for _ in range(3)]
        for connection in busy:
            connection.sendall(b"POST /wait HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na")
        wait_until(lambda: server.num_waiting == 3)
        answer = read_answer(connect(server.port))
        assert answer is not None
        assert answer[0] == 503
        server.release.set()
        assert all(read_answer(connection) is not None for connection in busy)
        assert server.is_answering()


def test_large_heads_and_many_headers_below_the_limits_are_accepted(server):
    for headers in (b"x: " + b"y" * (MAX_HEAD_BYTES - 200) + b"\r\n", b"a: b\r\n" * (MAX_HEADERS - 2)):
        connection = connect(server.port)
        connection.sendall(POST + headers + b"content-length: 0\r\n\r\n")
        answer = read_answer(connection)
        assert answer is not None
        assert answer[0] == 200


def test_more_connections_than_files_are_refused_before_anything_is_started():
    needed = "max_connections: 10,000,000,000 connections need .* open files"
    with pytest.raises(InputError, match=needed), running(max_connections=10_000_000_000):
        pass
