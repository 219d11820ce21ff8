"""Keys and texts planted as canaries are found in no table, manifest, report or log of a run, whatever goes wrong."""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from tests.fixtures.openai_endpoint import Endpoint, chat, serve
from tests.fixtures.s3_server import SECRET_KEY, running_server
from tests.fixtures.tiny_classifier import save_tiny_classifier

pytest.importorskip("openai", reason="needs the openai extra")
pytestmark = [pytest.mark.slow, pytest.mark.s3]

API_KEY, HUB_TOKEN = "sk-canary-7f3a9b51c2", "hf_canaryQkzPWmXtYv"
TEXT = "an unforgettable zugzwang of a film"  # a record's text: in tables and reports, in no log
RECIPE = """\
name: secrets
task: reviews
corpus: {{path: {folder}/films.jsonl}}
annotator:
  engine: openai
  model: some-model
  base_url: {endpoint}
  prompt: instruct
  num_records: 20
classifier: {{model: {folder}/encoder, epochs: 1, max_length: 32}}
storage: s3://llambert-test/secrets
"""


def plain(content: bytes) -> bytes:
    """The content, and of a Parquet file its rows and metadata: compressed columns would hide what is sought."""
    if not content.startswith(b"PAR1"):
        return content
    table = pq.read_table(io.BytesIO(content))
    return content + repr(table.to_pylist()).encode() + repr(table.schema.metadata).encode()


@pytest.fixture(scope="module")
def logs_of_ray() -> Iterator[str]:
    """A folder with a short name: Ray makes Unix sockets below it, whose paths have 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture(scope="module")
def ended(tmp_path_factory, logs_of_ray) -> dict[str, dict[str, bytes]]:
    """A run through an endpoint that repeats the key in its errors: what the run stored, and what it logged."""
    folder = tmp_path_factory.mktemp("secrets")
    save_tiny_classifier(folder / "encoder")
    rows = [{"record_id": f"r{n}", "text": f"{TEXT}, {'good' if n % 2 else 'bad'} {n}"} for n in range(30)]
    (folder / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    endpoint = Endpoint()
    said = f"Incorrect state for Bearer {API_KEY}"
    endpoint.script.extend([(500, {"error": {"message": said}}, {}), (400, {"error": {"message": said}}, {})])
    endpoint.otherwise = lambda request: chat("Positive" if "good" in json.dumps(request) else "Negative")
    with running_server(folder / "s3") as server, serve(endpoint):
        (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, endpoint=endpoint.base_url))
        environment = {
            **os.environ,
            **server.environment,
            "OPENAI_API_KEY": API_KEY,
            "HF_TOKEN": HUB_TOKEN,
            "RAY_TMPDIR": logs_of_ray,
        }
        job = Path(__file__).resolve().parents[1] / "jobs" / "pipeline.py"
        command = [sys.executable, job, folder / "recipe.yaml"]
        ran = subprocess.run(command, env=environment, cwd=folder, capture_output=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stderr[-3000:].decode()
        store = fsspec.filesystem("s3")
        stored = {path: plain(store.cat_file(path)) for path in store.find("llambert-test/secrets")}
    assert endpoint.keys, "the endpoint was never asked"
    assert set(endpoint.keys) == {f"Bearer {API_KEY}"}
    logs = {"stdout": ran.stdout, "stderr": ran.stderr}
    for path in Path(logs_of_ray).rglob("*"):
        if path.is_file() and not path.is_symlink():
            logs[str(path)] = path.read_bytes()
    return {"stored": stored, "logs": logs}


def test_the_run_is_whole_and_was_logged(ended):
    names = {path.split("/")[2] for path in ended["stored"]}
    assert {"corpus", "answers", "responses", "silver", "checkpoint", "labels", "report", "recipe.yaml"} <= names
    assert len(ended["logs"]) > 10


def test_the_search_finds_what_is_in_a_compressed_column(ended):
    found = [path for path, content in ended["stored"].items() if "/corpus/" in path and TEXT.encode() in content]
    assert found


@pytest.mark.parametrize("secret", [API_KEY, HUB_TOKEN, SECRET_KEY])
def test_no_secret_is_stored_or_logged(ended, secret):
    found = [path for files in ended.values() for path, content in files.items() if secret.encode() in content]
    assert found == []


def test_no_text_of_a_record_is_logged(ended):
    assert [path for path, content in ended["logs"].items() if TEXT.encode() in content] == []


# Without Ray, on a disk; the environment holds a secret in each variable that llambert or its libraries read.

PASSWORD = "pr0xy-canary-1c9e"
ENVIRONMENT = {
    "OPENAI_API_KEY": API_KEY,
    "HF_TOKEN": HUB_TOKEN,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "LLAMBERT_SERVE_TOKEN": PASSWORD,
    "HTTP_PROXY": f"http://user:{PASSWORD}@127.0.0.1:9",
    "HTTPS_PROXY": f"http://user:{PASSWORD}@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
}
SIGNED = f"https://user:{PASSWORD}@host/x.jsonl?X-Amz-Signature={PASSWORD}"
REFUSAL = (401, {"error": {"message": f"Incorrect API key provided: {API_KEY}"}}, {})


@pytest.mark.parametrize(
    ("settings", "environment", "replies", "statuses"),
    [
        ([], {}, [], {0}),
        ([], {}, [REFUSAL] * 20, {2}),
        ([], {"NO_PROXY": ""}, [], {1, 2}),
        ([], {"NO_PROXY": "", "HTTP_PROXY": f"gopher://user:{PASSWORD}@127.0.0.1:9"}, [], {1, 2}),
        ([f"corpus.path={SIGNED}"], {}, [], {2}),
        ([f"storage={SIGNED}"], {}, [], {2}),
        ([f"annotator.base_url={SIGNED}"], {}, [], {2}),
        ([f"classifier.model={SIGNED}"], {}, [], {2}),
        ([f"corpus.columns.text={SIGNED}"], {}, [], {2}),
        (["corpus.path={folder}/bad.jsonl"], {}, [], {2}),
        (["classifier.model={folder}"], {}, [], {1, 2}),
    ],
    ids=[
        "whole",
        "key refused",
        "proxy down",
        "proxy of no known scheme",
        "corpus",
        "storage",
        "endpoint",
        "classifier",
        "column",
        "malformed corpus",
        "no classifier",
    ],
)
def test_no_secret_of_the_environment_or_the_recipe_is_written_or_said(
    tmp_path, settings, environment, replies, statuses
):
    save_tiny_classifier(tmp_path / "encoder")
    rows = [{"record_id": f"r{n}", "text": f"{TEXT}, {'good' if n % 2 else 'bad'} {n}"} for n in range(30)]
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bad.jsonl").write_text("not JSON\n" * 30)
    endpoint = Endpoint()
    endpoint.script.extend(replies)
    endpoint.otherwise = lambda request: chat("Positive" if "good" in json.dumps(request) else "Negative")
    with serve(endpoint):
        recipe = RECIPE.format(folder=tmp_path, endpoint=endpoint.base_url).partition("storage:")[0]
        (tmp_path / "recipe.yaml").write_text(f"{recipe}storage: {tmp_path}/run\n")
        job = Path(__file__).resolve().parents[1] / "jobs" / "pipeline.py"
        options = [word for setting in settings for word in ("--set", setting.format(folder=tmp_path))]
        command = [sys.executable, job, tmp_path / "recipe.yaml", "--in-process", *options]
        variables = {**os.environ, **ENVIRONMENT, "LLAMBERT_CACHE": str(tmp_path / "cache"), **environment}
        ran = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, timeout=300, check=False)
    assert ran.returncode in statuses, ran.stderr[-3000:].decode()
    found = {str(path): plain(path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    found |= {"stdout": ran.stdout, "stderr": ran.stderr}
    for secret in (API_KEY, HUB_TOKEN, SECRET_KEY, PASSWORD):
        assert [name for name, content in found.items() if secret.encode() in content] == []
