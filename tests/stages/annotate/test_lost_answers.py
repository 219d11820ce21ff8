"""Answers that were lost from the store while their table was complete."""

from pathlib import Path

import pytest

from llambert import schema
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from tests.fixtures.annotate_runs import NUM_RECORDS, open_run
from tests.fixtures.annotate_runs import sample_and_annotate as annotate
from tests.fixtures.openai_endpoint import chat, error, only_for
from tests.fixtures.stored_responses import joined
from tests.fixtures.tiny_encoder import save_tiny_encoder

pytest.importorskip("openai", reason="needs the openai extra")


@pytest.fixture
def run(tmp_path, endpoint):
    settings = {
        "engine": "openai", "mode": "generate", "prompt": "instruct", "base_url": endpoint.base_url,
        "num_records": NUM_RECORDS, "limits": {"max_attempts": 1},
    }  # fmt: skip
    run = open_run(tmp_path, save_tiny_encoder(tmp_path / "model"), **settings)
    annotator = run.recipe.annotator.model_copy(update={"model": "m"})
    return type(run)(run.recipe.model_copy(update={"annotator": annotator}), run.task)


def test_answers_lost_while_others_are_open_and_nobody_can_be_asked_are_one_line(run, endpoint):
    endpoint.otherwise = only_for("Number 7.", error(500))
    assert annotate(run, IN_PROCESS).counts["num_passing"] == 1
    answers = run.table("answers")
    Path(answers.path(answers.part_names()[0])).unlink()
    endpoint.models_status = 401
    with pytest.raises(InputError) as refused:  # the table cannot stay complete, and says nothing of what was lost
        annotate(run, IN_PROCESS)
    assert "\n" not in str(refused.value)
    endpoint.models_status = 200
    endpoint.otherwise = chat()
    assert annotate(run, IN_PROCESS).counts["num_passing"] == 0
    assert set(joined(run)[schema.RESPONSE].to_pylist()) == {"Positive"}
