"""A cloud's metadata service on loopback, of which the spot notice can be given."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SPOT_PATHS = {"aws": "/latest/meta-data/spot/instance-action", "gcp": "/computeMetadata/v1/instance/preempted"}


class Metadata:
    """``notice`` given: AWS's page is there and Google's says TRUE. ``num_asked``: how often either was read."""

    def __init__(self) -> None:
        self.notice, self.num_asked, self.url = False, 0, ""

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        if method == "PUT" and path == "/latest/api/token":
            return (200, b"a-token") if headers.get("x-aws-ec2-metadata-token-ttl-seconds") else (400, b"")
        if path == SPOT_PATHS["aws"] and headers.get("x-aws-ec2-metadata-token") == "a-token":
            self.num_asked += 1
            return (200, b'{"action": "terminate"}') if self.notice else (404, b"")
        if path == SPOT_PATHS["gcp"] and headers.get("metadata-flavor") == "Google":
            self.num_asked += 1
            return 200, b"TRUE" if self.notice else b"FALSE"
        return 403, b""


@contextmanager
def cloud_metadata() -> Iterator[Metadata]:
    """A running service; ``url`` is where."""
    metadata = Metadata()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body = metadata.answer(self.command, self.path, headers)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = _answer

        def log_message(self, *_: object) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    metadata.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield metadata
    finally:
        server.shutdown()
        server.server_close()
