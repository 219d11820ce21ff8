"""A proxy before a real S3 server: it turns requests away as a busy or full store does, is slow, loses connections."""

import http.client
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
NO_ROOM = b"<Error><Code>InsufficientCapacity</Code><Message>There is no room left.</Message></Error>"


@dataclass(frozen=True)
class Disturbance:
    """What happens to requests: each waits ``delay_s``; of ``share`` of them, what ``kind`` says.

    ``reset``: the connection is broken, for half of these after the server has done what it was asked. ``busy``: 503
    SlowDown. ``full``: 507, of requests that write.
    """

    kind: Literal["slow", "reset", "busy", "full"]
    share: float = 1.0
    delay_s: float = 0.0


class FaultyProxy:
    """Answers 503 SlowDown where ``is_turned_away`` says so of the n-th request, and passes the others on.

    ``disturbance`` may be set and taken away while it runs.
    """

    def __init__(self, endpoint: str, is_turned_away: Callable[[int], bool] = lambda number: False) -> None:
        self.num_requests = self.num_turned_away = 0
        self.disturbance: Disturbance | None = None
        self._lock = threading.Lock()
        self._chance = random.Random(0)
        proxy, target = self, urlsplit(endpoint)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                self.upstream = http.client.HTTPConnection(target.hostname, target.port, timeout=30)

            def finish(self) -> None:
                self.upstream.close()
                super().finish()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                now, strikes, is_late = proxy._strikes(self.command)
                if proxy._turns_away(is_turned_away) or (now and strikes and now.kind == "busy"):
                    self.reply(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                elif now and strikes and now.kind == "full":
                    self.reply(507, {"Content-Type": "application/xml"}, NO_ROOM)
                elif now and strikes and now.kind == "reset" and not is_late:
                    self.break_off()
                else:
                    if now and now.delay_s:
                        proxy.stopped.wait(now.delay_s)
                    self.pass_on(body, is_lost=bool(now and strikes and now.kind == "reset"))

            def pass_on(self, body: bytes, is_lost: bool) -> None:
                try:
                    self.upstream.request(self.command, self.path, body, dict(self.headers))
                    reply = self.upstream.getresponse()
                    content = reply.read()
                except (OSError, http.client.HTTPException):  # the server is gone: so is this connection
                    self.break_off()
                    return
                if is_lost:
                    self.break_off()
                else:
                    self.reply(reply.status, dict(reply.getheaders()), content)

            def break_off(self) -> None:
                """A TCP reset instead of an answer."""
                self.close_connection = True
                self.upstream.close()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

            def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
                length = headers.pop("Content-Length", str(len(content)))
                self.send_response_only(status)
                for name, value in headers.items():
                    if name not in ("Transfer-Encoding", "Connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """A client that was killed in the midst of a request."""

        self.stopped = threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _turns_away(self, is_turned_away: Callable[[int], bool]) -> bool:
        with self._lock:
            self.num_requests += 1
            away = is_turned_away(self.num_requests)
            self.num_turned_away += away
            return away

    def _strikes(self, method: str) -> tuple[Disturbance | None, bool, bool]:
        """The disturbance now, whether it strikes this request, and if so whether after the server has acted."""
        now = self.disturbance
        if now is None:
            return None, False, False
        with self._lock:
            strikes, is_late = self._chance.random() < now.share, self._chance.random() < 0.5
        if now.kind == "full" and method not in ("PUT", "POST"):
            strikes = False
        self.num_turned_away += strikes and now.kind != "slow"
        return now, strikes, is_late


@contextmanager
def faulty_proxy(endpoint: str, is_turned_away: Callable[[int], bool] = lambda number: False) -> Iterator[FaultyProxy]:
    """A running one."""
    proxy = FaultyProxy(endpoint, is_turned_away)
    thread = threading.Thread(target=proxy.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stopped.set()
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
