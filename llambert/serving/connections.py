"""The endpoint's HTTP server: uvicorn, with limits on what a connection may send, hold and wait for. No Ray.

A connection waits for its client while a request's head or body arrives, while an answer is not read, and between
requests. Each of these waits ends after its time-out, and when ``max_connections`` are open, those that have waited
longest are closed to make room, first those of the address that has most of them: whoever opens thousands of
connections loses them, and others are answered. A connection whose request is being labelled is never closed.
"""

import asyncio
import resource
import socket
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import h11
import uvicorn
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from llambert.errors import InputError
from llambert.serving.requests import Limits, RequestError

MAX_HEAD_BYTES = 16 << 10
"""Request line and headers. Browsers and proxies send one to four KiB; nginx and Apache allow 8 KiB a line."""
MAX_HEADERS = 100
"""Of one request; Apache's default. With ``MAX_HEAD_BYTES`` alone a head could hold 4,000."""
KEEP_ALIVE_S = 90
"""How long a connection may be idle between requests; longer than the 60 s of common load balancers."""

_READ_BYTES = 16 << 10  # by the event loop at once: limits what is parsed before other connections get their turn
_EVICTED_SHARE = 0.1  # of max_connections: choosing them takes time proportional to all, so it is not done for one
_SPARE_FILES = 512  # descriptors of Ray and of the process itself
_HEAD_TOO_LARGE = f"the request's head, or that of a chunk, is larger than {MAX_HEAD_BYTES:,} bytes"


class Wait(StrEnum):
    """What a connection waits for from its client; the value is the ``reason`` of the metric for those closed."""

    HEAD = "head"
    BODY = "body"
    READ = "answer_not_read"
    IDLE = "idle"


@dataclass
class _Shared:
    """What the connections of a server share."""

    limits: Limits
    refused: Callable[[int], None]
    dropped: Callable[[str], None]
    read_buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(_READ_BYTES)))


class Connection(H11Protocol, asyncio.BufferedProtocol):
    """One connection: h11 limits the size of a head, ``BufferedProtocol`` that of a read."""

    def __init__(self, shared: _Shared, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._shared = shared
        self._waits_for: Wait | None = Wait.HEAD
        self.waits_since = self.loop.time()
        self._num_discarded = 0
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room if necessary; status 503 if all connections are being answered."""
        limit = self._shared.limits.max_connections
        has_room = len(self.connections) < limit or _evict(self.connections, limit) > 0
        super().connection_made(transport)
        if not has_room:
            self._refuse(503, f"{limit:,} requests are being answered: retry later")

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request that is being answered: nobody reads the answer."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._is_answering() and not self._is_refused:
            self._shared.refused(499)
        self._cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the event loop puts what it reads; copied before anything else is read."""
        return self._shared.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """The event loop has read ``nbytes``."""
        self.data_received(bytes(self._shared.read_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Parse; but the rest of a body whose request was refused is discarded, so that its client sees why."""
        if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self._num_discarded += len(data)
            if self._num_discarded > self._shared.limits.max_request_bytes:
                self.drop(Wait.BODY)
        if not self.transport.is_closing():
            super().data_received(data)
            self._update_wait()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what h11 could not parse."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        reasons = {431: _HEAD_TOO_LARGE, 501: "of transfer encodings only chunked is supported"}
        self._refuse(status, reasons.get(status, "this is not valid HTTP/1.1"))

    def _refuse(self, status: int, reason: str) -> None:
        """Answer before the application does, and close."""
        is_answered = self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
        if self.transport.is_closing() or is_answered or self.transport.get_write_buffer_size():
            self.drop("invalid")
            return
        self._is_refused = True
        self._shared.refused(status)
        answer = JSONResponse({"detail": reason}, status, {"connection": "close"})
        head = h11.Response(status_code=status, headers=answer.raw_headers)
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._cancel()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _cancel(self) -> None:
        if self._is_answering():
            self.cycle.disconnected = True
            task = self.cycle.scope["state"].get("task")
            if task is not None:
                task.cancel()

    def _update_wait(self) -> None:
        if self.transport.get_write_buffer_size():
            found: Wait | None = Wait.READ
        elif self.conn.their_state is h11.SEND_BODY:
            found = Wait.BODY
        elif self._is_answering():
            found = None
        else:
            found = Wait.HEAD if self.cycle is None or self.conn.trailing_data[0] else Wait.IDLE
        if found is not self._waits_for:
            self._waits_for, self.waits_since = found, self.loop.time()

    def is_waiting(self) -> bool:
        """Whether it is the client's turn."""
        self._update_wait()
        return self._waits_for is not None

    def check_time(self) -> None:
        """Close the connection if its client has let it wait for too long; status 408 if a request has begun."""
        if not self.is_waiting() or self._waits_for is None:
            return
        limits = self._shared.limits
        limit = {Wait.HEAD: limits.head_timeout_s, Wait.IDLE: KEEP_ALIVE_S}.get(self._waits_for, limits.timeout_s)
        if self.loop.time() - self.waits_since <= limit:
            return
        has_begun = self._waits_for is Wait.BODY or bool(self._waits_for is Wait.HEAD and self.conn.trailing_data[0])
        if has_begun and not (self.cycle and self.cycle.response_started and self._waits_for is Wait.BODY):
            self._refuse(408, f"the request's {self._waits_for} did not arrive within {limit:g} s")
        else:
            self.drop(self._waits_for)

    def drop(self, reason: str) -> None:
        """Close without an answer, and what is unsent is lost."""
        self.connections.discard(self)  # not in the next iteration of the event loop, when thousands may have come
        self._is_refused = True
        self._shared.dropped(reason)
        self.transport.abort()

    @property
    def host(self) -> str:
        """The client's address."""
        return self.client[0] if self.client else ""


def _evict(connections: Iterable[Any], limit: int) -> int:
    """Close a share of the connections that wait for their clients; how many."""
    waiting = [connection for connection in connections if connection.is_waiting()]
    by_host: dict[str, deque[Connection]] = defaultdict(deque)
    for connection in sorted(waiting, key=lambda connection: connection.waits_since):
        by_host[connection.host].append(connection)
    num = min(len(waiting), max(1, int(limit * _EVICTED_SHARE)))
    for _ in range(num):
        max(by_host.values(), key=len).popleft().drop("no_room")
    return num


class Server(uvicorn.Server):
    """Serves ``application`` on ``address``; call ``serve``, and set ``should_exit`` to stop.

    ``refused`` is called with the status of each request that the application did not answer (499: the client left),
    ``dropped`` with the reason of each connection closed without an answer. ``InputError``: too few file descriptors.
    """

    def __init__(
        self,
        application: ASGIApp,
        limits: Limits,
        refused: Callable[[int], None],
        dropped: Callable[[str], None],
        drain_s: int,
    ) -> None:
        allow_open_files(limits.max_connections)
        shared = _Shared(limits, refused, dropped)
        config = uvicorn.Config(
            _checked(application, refused),
            http=lambda **arguments: Connection(shared, **arguments),  # type: ignore[arg-type]
            ws="none",  # a WebSocket would leave these limits
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            lifespan="off",
            log_config=None,
            log_level="critical",  # otherwise a line for each malformed request; they are counted instead
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=drain_s,
        )
        super().__init__(config)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                connection.check_time()  # type: ignore[union-attr]
        return await super().on_tick(counter)


def listen(address: tuple[str, int]) -> socket.socket:
    """A socket for ``Server.serve``; ``OSError`` if the address is in use."""
    return socket.create_server(address, backlog=2048)


def _checked(application: ASGIApp, refused: Callable[[int], None]) -> ASGIApp:
    """``application`` behind the checks of a request's head that h11 does not make."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        error = _check_head(scope)
        if error is not None:
            refused(error.status)
            answer = JSONResponse({"detail": error.reason}, error.status, {"connection": "close"})
            return await answer(scope, receive, send)
        scope["state"]["task"] = asyncio.current_task()
        try:
            await application(scope, receive, send)
        except (asyncio.CancelledError, ClientDisconnect):
            return None  # the connection is closed and counted
        except Exception:
            refused(500)
            raise
        finally:
            del scope["state"]["task"]

    return checked


def _check_head(scope: Scope) -> RequestError | None:
    names = [name for name, _ in scope["headers"]]
    if scope["http_version"] not in ("1.0", "1.1"):
        return RequestError(505, "only HTTP/1.0 and HTTP/1.1 are supported")
    # h11 measures only what has not wholly arrived.
    num_bytes = (
        len(scope["raw_path"])
        + len(scope["query_string"])
        + sum(len(name) + len(value) for name, value in scope["headers"])
    )
    if num_bytes > MAX_HEAD_BYTES:
        return RequestError(431, _HEAD_TOO_LARGE)
    if len(names) > MAX_HEADERS:
        return RequestError(431, f"the request has {len(names):,} headers; {MAX_HEADERS} are allowed")
    # Proxies disagree about where such a request ends, so the rest could be read as somebody else's request.
    if b"transfer-encoding" in names and (b"content-length" in names or scope["http_version"] == "1.0"):
        return RequestError(400, "the length of the body is ambiguous: send either Content-Length or Transfer-Encoding")
    if names.count(b"content-length") > 1 or names.count(b"host") > 1:
        return RequestError(400, "Content-Length or Host is given more than once")
    return None


def allow_open_files(max_connections: int) -> None:
    """Raise this process's limit of open files to what so many connections need; ``InputError`` if it cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(
            f"max_connections: {max_connections:,} connections need {needed:,} open files, and this system allows "
            f"{hard:,}: raise `ulimit -n`, or lower it (--limit max_connections={max(1, hard - _SPARE_FILES)})"
        )
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
