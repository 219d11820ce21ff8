"""What tests of sample, annotate and finetune start from; the other stages have runs of their own."""

import shutil
from functools import partial

import pytest

from tests.fixtures.annotate_runs import open_run
from tests.fixtures.certified_runs import Oracle, in_folder, open_labelled, write_folder
from tests.fixtures.openai_endpoint import serve
from tests.fixtures.tiny_encoder import save_tiny_encoder
from tests.fixtures.tiny_llm import save_tiny_llm


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory):
    return save_tiny_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def make_run(tmp_path, tiny_llm):
    return partial(open_run, tmp_path, tiny_llm)


@pytest.fixture(scope="module")
def oracle():
    """The annotator that runs of certified_runs.py ask."""
    with serve(Oracle()) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, oracle):
    """A folder whose run is labelled, and asks for a guarantee."""
    folder = tmp_path_factory.mktemp("labelled") / "films"
    write_folder(folder, oracle.base_url)
    with in_folder(folder):
        open_labelled()
    return folder


@pytest.fixture
def films(tmp_path, labelled, oracle, monkeypatch):
    """A copy of that folder, in which the test is; nothing has been asked since."""
    monkeypatch.setattr("llambert.engines.openai.http_engine.INITIAL_DELAY_S", 0.01)
    oracle.fails_on = frozenset()
    oracle.requests.clear()
    shutil.copytree(labelled, tmp_path / "films")
    with in_folder(tmp_path / "films"):
        yield tmp_path / "films"
