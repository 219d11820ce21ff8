"""Faults of the code in a worker of fine-tuning: told apart from a lost machine, and not retried as if one was."""

import pytest

from llambert.errors import InputError
from llambert.stages.finetune import finetune
from tests.fixtures.own_code import add_own_code
from tests.fixtures.tiny_encoder import save_tiny_encoder
from tests.fixtures.training_runs import make_run

FAILS_IN_TRAINING = """

    def forward(self, input_ids=None, attention_mask=None, **given):
        if self.training:
            with open({mark!r}, "a") as marks:
                marks.write("failed\\n")
            raise {error}("not with these arguments")
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **given)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "num_workers", "num_tries"), [("TypeError", 1, {1}), ("TypeError", 2, {1, 2}), ("RuntimeError", 1, {2})]
)
def test_a_fault_that_would_come_again_is_not_retried_as_if_a_worker_was_lost(
    tmp_path, error, num_workers, num_tries, local_ray
):
    save_tiny_encoder(tmp_path / "encoder")
    add_own_code(tmp_path / "encoder", "AutoModelForSequenceClassification", "BertForSequenceClassification")
    mark, code = tmp_path / "tries", tmp_path / "encoder/own_model.py"
    code.write_text(code.read_text().rstrip() + FAILS_IN_TRAINING.format(mark=str(mark), error=error))
    given = {"trust_remote_code": True, "max_failures": 3, "num_workers": num_workers}
    run = make_run(tmp_path / "run", str(tmp_path / "encoder"), **given)
    with pytest.raises(RuntimeError, match=rf"^finetune: {error}: not with these arguments; .* not retried") as failure:
        finetune(run)
    assert mark.read_text().count("failed") in num_tries
    assert "own_model.py" in failure.value.__notes__[0]
    assert run.table("checkpoint").read_manifest() is None


@pytest.mark.slow
def test_a_gpu_that_fails_is_retried_in_another_process_and_refused_in_one_line_if_it_fails_there_too(
    tmp_path, local_ray
):
    save_tiny_encoder(tmp_path / "encoder")
    add_own_code(tmp_path / "encoder", "AutoModelForSequenceClassification", "BertForSequenceClassification")
    mark, code = tmp_path / "tries", tmp_path / "encoder/own_model.py"
    fails = FAILS_IN_TRAINING.format(mark=str(mark), error="__import__('torch').AcceleratorError")
    code.write_text(code.read_text().rstrip() + fails)
    run = make_run(tmp_path / "run", str(tmp_path / "encoder"), trust_remote_code=True, max_failures=5)
    with pytest.raises(
        InputError, match=r"in 2 processes of one node \(.*\): AcceleratorError: not with these"
    ) as refused:
        finetune(run)
    assert "\n" not in str(refused.value)
    assert mark.read_text().count("failed") == 2
