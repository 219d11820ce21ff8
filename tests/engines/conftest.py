"""Engines that ask the endpoint on loopback."""

import pytest

from llambert.engines import create_engine
from llambert.recipe import AnnotatorRecipe, EndpointLimits
from tests.fixtures.openai_endpoint import TASK


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
