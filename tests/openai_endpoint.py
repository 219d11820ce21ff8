"""An OpenAI-compatible server on loopback that answers from a script: a real one misbehaves rarely when it should."""

import json
import threading
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llambert.tasks import Category, Task

HANGS_UP = 0  # as a status: the connection ends without a reply
KEY = "sk-canary-4242424242"
SHOTS = ({"text": "Dull.", "label": "bad"},)
TASK = Task(
    name="films",
    question="Does the critic like the film?",
    categories=(
        Category(name="good", answer_words=("positive", "fresh")),
        Category(name="bad", answer_words=("negative",)),
    ),
    prompts={
        "chat": {"system": "Answer with one word.", "template": "Review: {text}", "shots": SHOTS},
        "completion": {"format": "completion", "template": "Review: {text}\nSentiment:", "separator": "\n\n"},
        "llama2": {"format": "llama2", "template": "{text}"},
    },
)  # fmt: skip


def chat(content="Positive", finish_reason="stop", refusal=None, tokens=(20, 2)) -> dict:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def error(status, code=None, message="no", **headers):
    return status, {"error": {"message": message, "type": "error", "code": code}}, headers


def only_for(text: str, fault, otherwise=None):
    """A function of the request: ``fault`` for the records whose text is ``text``, else an answer."""
    return lambda request: fault if text in request["messages"][-1]["content"] else otherwise or chat()


class Endpoint:
    """An OpenAI-compatible server that answers from a script, and then always the same.

    A line of the script is a reply, (status, body, headers), seconds to sleep first, or a function of the request.
    """

    def __init__(self) -> None:
        self.script: deque = deque()
        self.otherwise = chat()
        self.models_status = 200
        self.models: object = {"object": "list", "data": []}
        self.requests: list[dict] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.base_url = ""

    def reply_to(self, request: dict):
        with self.lock:
            self.requests.append(request)
            self.times.append(time.monotonic())
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            line = self.script.popleft() if self.script else self.otherwise
        line = line(request) if callable(line) else line
        if isinstance(line, float):
            time.sleep(line)
            line = chat()
        with self.lock:
            self.under_way -= 1
        return line if isinstance(line, tuple) else (200, line, {})


@contextmanager
def serve(endpoint: Endpoint):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send(endpoint.models_status, endpoint.models, {})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.keys.append(self.headers["Authorization"])
            self.send(*endpoint.reply_to({"path": self.path, **body}))

        def send(self, status, body, headers):
            if status == HANGS_UP:
                self.close_connection = True
                return
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client's time was out

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    endpoint.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
