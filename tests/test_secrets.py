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
    assert {"corpus", "responses", "silver", "checkpoint", "labels", "report", "recipe.yaml"} <= names
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
