"""An endpoint on loopback, and engines that ask it."""

import pytest

from llambert.engines import create_engine
from llambert.recipe import AnnotatorRecipe, EndpointLimits
from tests.fixtures.openai_endpoint import KEY, TASK, Endpoint, serve


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("llambert.engines.openai.http_engine.FIRST_DELAY_S", 0.01)
    with serve(Endpoint()) as served:
        yield served


@pytest.fixture
def make_engine(endpoint):
    engines = []

    def make(before=(0, 0), limits=None, **annotator):
        settings = {"base_url": endpoint.base_url, "prompt": "chat", **annotator}
        recipe = AnnotatorRecipe(
            engine="openai", model="m", num_records=1, limits=EndpointLimits(**limits or {}), **settings
        )
        engines.append(create_engine(recipe, TASK, before))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
