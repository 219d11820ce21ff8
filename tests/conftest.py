"""What every test starts from: no hub, no telemetry, and a folder of its own for models' own code."""

import os
import tempfile

import pytest

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", RAY_USAGE_STATS_ENABLED="0")
_MODULES = tempfile.TemporaryDirectory(prefix="llambert-test-modules-")  # where transformers copies models' own code
os.environ["HF_MODULES_CACHE"] = _MODULES.name


@pytest.fixture(scope="module")
def local_ray():
    """A Ray of two CPUs, whatever the machine has."""
    import ray

    ray.shutdown()  # an earlier module's has as many CPUs as the machine
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def endpoint(monkeypatch):
    """An OpenAI-compatible server on loopback; the client's key and short delays between its attempts are set."""
    from tests.fixtures.openai_endpoint import KEY, Endpoint, serve

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("llambert.engines.openai.http_engine.INITIAL_DELAY_S", 0.01)
    with serve(Endpoint()) as served:
        yield served


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """An S3-compatible server on loopback; the environment says where it is."""
    from tests.fixtures.s3_server import running_server

    with running_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
