import pytest

from llambert.engines import create_engine
from llambert.errors import InputError
from llambert.recipe import AnnotatorRecipe
from llambert.tasks import load_task


def test_a_recipe_for_vllm_where_it_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr("llambert.engines.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"annotator\.engine: vLLM is not installed here; install llambert\[gpu\]"):
        create_engine(AnnotatorRecipe(engine="vllm", model="m", num_records=1), load_task("reviews"))
