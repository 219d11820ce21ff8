"""What tests of sample, annotate and finetune start from; the other stages have runs of their own."""

from functools import partial

import pytest

from tests.fixtures.annotate_runs import open_run
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
