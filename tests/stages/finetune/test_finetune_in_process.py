"""Fine-tuning in the caller's process: resumed after a kill, refused in a line, and no fault hidden or tried again."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS, InProcessExecutor
from llambert.stages.finetune import finetune
from tests.execution.test_training_faults import FAILS_IN_TRAINING
from tests.fixtures.own_code import add_own_code
from tests.fixtures.tiny_encoder import save_tiny_encoder
from tests.fixtures.training_runs import LONG, assert_equal_runs, make_run, wait_for_checkpoint

PROGRAM = """
import sys
from llambert.execution.in_process import IN_PROCESS
from llambert.run import open_run
from llambert.stages.finetune import finetune
finetune(open_run(sys.argv[1]), IN_PROCESS)
"""


class Listening(InProcessExecutor):
    """Notes what training tells."""

    def __init__(self):
        self.reported = []

    def train(self, run, function, on_progress):
        return super().train(run, function, lambda progress: (self.reported.append(progress), on_progress(progress)))


def test_a_killed_training_resumes_from_its_last_state_to_the_same_weights(tmp_path, encoder):
    undisturbed, run = (make_run(tmp_path / name, encoder, **LONG) for name in ("undisturbed", "run"))
    executor = Listening()
    finetune(undisturbed, executor)
    assert executor.reported[0].num_done == 0
    assert not Path(undisturbed.table("training").path()).exists()

    driver = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "run/recipe.yaml")])
    try:
        wait_for_checkpoint(run)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert run.table("checkpoint").read_manifest() is None
    before = run.table("checkpoint").read_progress()
    executor = Listening()
    manifest = finetune(run, executor)
    assert executor.reported[0].num_done > 0
    assert executor.reported[-1].num_done == executor.reported[-1].num_steps == 60
    assert manifest.busy_seconds > before["busy_seconds"] > 0
    assert_equal_runs(run, undisturbed)


def test_there_is_one_worker_whatever_the_recipe_says_and_the_manifest_says_so(tmp_path, encoder):
    manifest = finetune(make_run(tmp_path, encoder, num_workers=3), IN_PROCESS)
    assert manifest.counts["num_workers"] == 1
    assert manifest.busy_seconds <= manifest.wall_seconds


def test_a_loss_that_is_not_finite_stops_the_stage_in_one_line_and_keeps_the_last_good_state(tmp_path, encoder):
    run = make_run(tmp_path, encoder, regime="combined", gold={"learning_rate": 1e38}, checkpoint_every_s=0)
    with pytest.raises(InputError, match=r"not finite at step \d+ of 60 .*lower classifier.learning_rate") as refusal:
        finetune(run, IN_PROCESS)
    assert "\n" not in str(refusal.value)
    checkpoint = run.table("checkpoint")
    assert checkpoint.read_manifest() is None
    assert checkpoint.read_progress()["failure"] == f"InputError: {refusal.value}"
    state = torch.load(run.table("training").path("state.pt"), weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_one_line(tmp_path, encoder):
    with pytest.raises(InputError, match=r"^classifier.use_gpu: PyTorch finds no GPU [^\n]*$"):
        finetune(make_run(tmp_path, encoder, use_gpu=True), IN_PROCESS)


@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_a_fault_of_the_code_is_raised_as_it_is_and_not_tried_again(tmp_path, error):
    save_tiny_encoder(tmp_path / "encoder")
    add_own_code(tmp_path / "encoder", "AutoModelForSequenceClassification", "BertForSequenceClassification")
    mark, code = tmp_path / "tries", tmp_path / "encoder/own_model.py"
    code.write_text(code.read_text().rstrip() + FAILS_IN_TRAINING.format(mark=str(mark), error=error.__name__))
    run = make_run(tmp_path / "run", str(tmp_path / "encoder"), trust_remote_code=True, max_failures=3)
    with pytest.raises(error, match=r"^not with these arguments$"):
        finetune(run, IN_PROCESS)
    assert mark.read_text().count("failed") == 1
    assert run.table("checkpoint").read_manifest() is None
    assert run.table("checkpoint").read_progress()["failure"] == f"{error.__name__}: not with these arguments"
