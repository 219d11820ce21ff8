"""A proxy before a real S3 server that turns some requests away, as a busy store does."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class FaultyProxy:
    """Answers 503 SlowDown where ``is_turned_away`` says so of the n-th request, and passes the others on."""

    def __init__(self, endpoint: str, is_turned_away: Callable[[int], bool]) -> None:
        self.num_requests = self.num_turned_away = 0
        self._lock = threading.Lock()
        proxy, target = self, urlsplit(endpoint)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if proxy._turns_away(is_turned_away):
                    self.reply(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                    return
                connection = http.client.HTTPConnection(target.hostname, target.port, timeout=30)
                connection.request(self.command, self.path, body, dict(self.headers))
                reply = connection.getresponse()
                content = reply.read()
                self.reply(reply.status, dict(reply.getheaders()), content)
                connection.close()

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

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _turns_away(self, is_turned_away: Callable[[int], bool]) -> bool:
        with self._lock:
            self.num_requests += 1
            away = is_turned_away(self.num_requests)
            self.num_turned_away += away
            return away


@contextmanager
def faulty_proxy(endpoint: str, is_turned_away: Callable[[int], bool]) -> Iterator[FaultyProxy]:
    """A running one."""
    proxy = FaultyProxy(endpoint, is_turned_away)
    thread = threading.Thread(target=proxy.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
