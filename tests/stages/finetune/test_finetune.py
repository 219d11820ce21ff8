import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
import ray
import torch
from ray.train.torch import TorchTrainer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llambert import schema
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.execution.ray_executor import RayExecutor
from llambert.run import Run
from llambert.stages.finetune import finetune
from llambert.stages.finetune.selection import select
from llambert.storage.run_directory import TableDirectory
from llambert.training.card import TENSORBOARD_FILE
from tests.fixtures.s3_server import running_server
from tests.fixtures.tensorboard_events import scalars
from tests.fixtures.training_runs import (
    LONG,
    NUM_RECORDS,
    assert_equal_runs,
    checkpoint_folder,
    make_run,
    records,
    wait_for_checkpoint,
    weights,
)

# Without Ray: what each regime reads


@pytest.mark.parametrize(
    ("regime", "splits"),
    [
        ("silver", {"silver": {"train"}}),
        ("silver_extra", {"silver": {"train", "extra"}}),
        ("gold", {"gold": {"train"}}),
        ("combined", {"silver": {"train", "extra"}, "gold": {"train"}}),
    ],
)
def test_each_regime_trains_on_its_splits_alone_and_accounts_for_every_record(tmp_path, encoder, regime, splits):
    run = make_run(tmp_path, encoder, regime=regime)
    _, texts, _ = records()
    split_of = {text: ["test", "extra", "train"][number % 3] for number, text in enumerate(texts)}
    selected = select(run)
    assert set(selected) == set(splits)
    for name, phase in selected.items():
        used = phase.train.texts + phase.held_out.texts
        assert {split_of[text] for text in used} == splits[name]
        assert len(used) + sum(phase.num_left_out.values()) == phase.num_in


@pytest.mark.parametrize("regime", ["silver", "silver_extra"])
def test_silver_training_reads_nothing_but_the_silver_table(tmp_path, encoder, regime):
    run = make_run(tmp_path, encoder, regime=regime)
    expected = select(run)["silver"].train.texts
    shutil.rmtree(run.table("corpus").path())
    assert select(run)["silver"].train.texts == expected != []


def test_gold_training_reads_the_gold_column(tmp_path, encoder):
    run = make_run(tmp_path, encoder, regime="gold")
    corpus = run.table("corpus")
    part = next(Path(corpus.path()).glob("*.parquet"))
    table = corpus.read_part(part.name).drop_columns([schema.GOLD_LABEL])
    part.unlink()
    TableDirectory(corpus.uri).commit_part(part.name, table)
    with pytest.raises(InputError, match=schema.GOLD_LABEL):
        select(run)


def test_a_changed_gold_label_changes_the_fingerprint_of_gold_regimes_alone(tmp_path, encoder):
    def fingerprint(regime, gold_labels):
        run = make_run(tmp_path, encoder, regime=regime)
        recipe = run.recipe.model_copy(
            update={"corpus": run.recipe.corpus.model_copy(update={"gold_labels": gold_labels})}
        )
        return Run(recipe, run.task).fingerprints["checkpoint"]

    assert fingerprint("silver", {}) == fingerprint("silver", {"1": "positive"})
    assert fingerprint("gold", {}) != fingerprint("gold", {"1": "positive"})
    assert fingerprint("combined", {}) != fingerprint("combined", {"1": "positive"})


def test_a_missing_encoder_and_one_sided_labels_are_refused_before_ray_starts(tmp_path, encoder):
    ray.shutdown()  # of an earlier module
    run = make_run(tmp_path, encoder, min_confidence=0.9)
    with pytest.raises(InputError, match=r"no silver record reaches 0\.9"):
        finetune(run)
    assert not ray.is_initialized()
    assert run.table("checkpoint").read_manifest() is None


# With Ray Train


@pytest.mark.slow
def test_the_result_is_an_ordinary_folder_with_card_record_and_curves_and_is_not_made_twice(
    tmp_path, encoder, local_ray, capfd
):
    # All the CPUs there are for the one worker: nothing else of Ray Train may ask for any.
    run = make_run(tmp_path, encoder, epochs=6, loss="soft", cpus_per_worker=2.0)
    manifest = finetune(run)
    folder = checkpoint_folder(run)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    logits = model(**tokenizer(["the film was great", "the film was awful"], return_tensors="pt")).logits
    assert logits.argmax(-1).tolist() == [1, 0]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {part.name for part in manifest.parts} == files - {"manifest.json", "progress.json"}
    assert {"README.md", "training_record.json", "runs/events.out.tfevents.llambert"} < {p.name for p in manifest.parts}
    record = json.loads((folder / "training_record.json").read_text())
    assert len(record["steps"]) == manifest.counts["num_steps"] == 6 * 12
    assert len(record["epochs"]) == 6
    assert record["classifier"]["seed"] == 0
    assert manifest.num_rejected == {"silver.other_split": 400}
    assert manifest.num_in == NUM_RECORDS
    assert manifest.measures["held_out_accuracy"] > 0.8
    assert run.table("checkpoint").read_progress()["done"] == 72
    assert 0 < manifest.busy_seconds < 2 * manifest.wall_seconds
    points = scalars((folder / "runs/events.out.tfevents.llambert").read_bytes())
    assert len(points["train/loss"]) == 72
    assert [step for step, _ in points["held_out/accuracy"]] == [12, 24, 36, 48, 60, 72]
    assert not Path(run.table("training").path()).exists()
    assert "epoch 6/6" in capfd.readouterr().out
    made = (folder / "manifest.json").stat().st_mtime_ns
    with patch.object(TorchTrainer, "fit", side_effect=AssertionError("trained again")):
        assert finetune(run) == manifest
    assert (folder / "manifest.json").stat().st_mtime_ns == made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, encoder, local_ray):
    """The run that the drills below are compared with."""
    run = make_run(tmp_path_factory.mktemp("undisturbed"), encoder, **LONG)
    finetune(run)
    return run


@pytest.mark.slow
def test_in_process_training_writes_the_bytes_that_ray_train_with_one_worker_writes(tmp_path, undisturbed):
    shutil.copytree(undisturbed.recipe.storage, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint"))
    recipe = undisturbed.recipe.model_copy(update={"storage": str(tmp_path / "run")})
    manifest = finetune(Run(recipe, undisturbed.task), IN_PROCESS)
    expected = undisturbed.table("checkpoint").require_manifest()
    sums = [
        {part.name: part.sha256 for part in made.parts if part.name != TENSORBOARD_FILE}
        for made in (manifest, expected)
    ]
    assert sums[0] == sums[1]
    assert {part.name for part in manifest.parts} == {part.name for part in expected.parts}
    assert manifest.counts == expected.counts
    figures = [
        {name: made.measures[name] for name in made.measures if name != "seconds_per_step"}
        for made in (manifest, expected)
    ]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_the_last_checkpoint_to_the_same_weights(tmp_path, encoder, undisturbed):
    run = make_run(tmp_path, encoder, **LONG)
    kill_a_worker_after_its_first_checkpoint(run)
    assert_equal_runs(run, undisturbed)


@pytest.mark.slow
def test_one_of_two_workers_killed_between_checkpoints_leaves_the_other_waiting_for_nothing(
    tmp_path, encoder, local_ray
):
    undisturbed, run = (make_run(tmp_path / name, encoder, num_workers=2, **LONG) for name in ("undisturbed", "run"))
    finetune(undisturbed)
    kill_a_worker_after_its_first_checkpoint(run)
    assert_equal_runs(run, undisturbed)


def kill_a_worker_after_its_first_checkpoint(run: Run) -> None:
    """Train; returns when training has ended nevertheless."""
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(finetune, run)
        wait_for_checkpoint(run)
        workers = [p for p in psutil.process_iter(["cmdline"]) if _is_our_train_worker(p)]
        assert len(workers) == run.recipe.classifier.num_workers
        workers[-1].kill()
        done.result(timeout=120)


def _is_our_train_worker(process: psutil.Process) -> bool:
    try:
        ours = os.getpid() in {parent.pid for parent in process.parents()}
        return ours and "RayTrainWorker" in " ".join(process.info["cmdline"] or [])
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_killed_driver_goes_on_when_it_is_started_again(tmp_path, encoder, undisturbed):
    run = make_run(tmp_path, encoder, **LONG)
    program = (
        "import ray, sys; from llambert.run import open_run; from llambert.stages.finetune import finetune; "
        "ray.init(address='local', num_cpus=2, include_dashboard=False, log_to_driver=False); "
        "finetune(open_run(sys.argv[1]))"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "recipe.yaml")],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_checkpoint(run)
    finally:
        family = [driver, *psutil.Process(driver.pid).children(recursive=True)]
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        for process in family[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    assert run.table("checkpoint").read_manifest() is None
    before = run.table("checkpoint").read_progress()
    assert before["total"] == 60
    assert before["wall_seconds"] > 0
    manifest = finetune(run)
    assert manifest.wall_seconds > before["wall_seconds"]
    assert manifest.busy_seconds > before["busy_seconds"]
    assert_equal_runs(run, undisturbed)


@pytest.mark.slow
def test_two_workers_give_the_curve_of_one(tmp_path, encoder, local_ray):
    # 360 records over batches of 16 and two workers; no dropout, which is drawn per worker.
    runs = [
        make_run(
            tmp_path / str(n), encoder, epochs=4, regime="silver_extra", dropout=0.0, num_workers=n, cpus_per_worker=1.0
        )
        for n in (1, 2)
    ]
    for run in runs:
        finetune(run)
    curves = [json.loads((checkpoint_folder(r) / "training_record.json").read_text())["steps"] for r in runs]
    losses = [[step["loss"] for step in curve] for curve in curves]
    assert losses[0][:20] == pytest.approx(losses[1][:20], abs=1e-4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_stage_in_one_line_and_keeps_the_last_good_checkpoint(
    tmp_path, encoder, local_ray
):
    run = make_run(tmp_path, encoder, regime="combined", gold={"learning_rate": 1e38}, checkpoint_every_s=0)
    with pytest.raises(InputError, match=r"not finite at step \d+ of 60 .*lower classifier.learning_rate") as refusal:
        finetune(run)
    assert "\n" not in str(refusal.value)
    checkpoint = run.table("checkpoint")
    assert checkpoint.read_manifest() is None
    assert checkpoint.read_progress()["failure"] == f"InputError: {refusal.value}"
    states = sorted(Path(run.table("training").path()).rglob("state.pt"))
    assert states
    for state in states:
        weights = torch.load(state, weights_only=True)["model"]
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.slow
def test_more_workers_than_this_machine_can_hold_are_refused_instead_of_waited_for(tmp_path, encoder, local_ray):
    run = make_run(tmp_path, encoder, num_workers=3)
    with pytest.raises(InputError, match="3 workers need 3 CPUs, Ray on this machine has 2"):
        finetune(run)


@pytest.mark.slow
def test_workers_that_always_fail_end_the_stage_with_what_to_do(tmp_path, encoder, local_ray):
    run = make_run(tmp_path, encoder, max_failures=0)

    class LosesWorkers(RayExecutor):
        def train(self, run, function, on_progress):
            return super().train(run, lambda run, context: os.kill(os.getpid(), signal.SIGKILL), on_progress)

    with pytest.raises(
        RuntimeError, match=r"workers failed more than 0 times .*start the same command again"
    ) as failure:
        finetune(run, LosesWorkers())
    assert "\n" not in str(failure.value)
    assert finetune(run).num_in == NUM_RECORDS
    assert run.table("checkpoint").read_progress()["num_failures"] == 1


@pytest.mark.slow
@pytest.mark.s3
def test_a_killed_worker_goes_on_from_object_storage_to_the_same_weights(tmp_path, encoder, local_ray):
    # Long enough that the process which uploads the first state has started before training is over.
    lasting = {**LONG, "epochs": 25}
    finetune(undisturbed := make_run(tmp_path / "undisturbed", encoder, **lasting))
    ray.shutdown()  # workers of the cluster above do not have this server's settings
    with running_server(tmp_path / "s3"):
        neighbour = TableDirectory(f"s3://llambert-test/runs a/training/{'0' * 12}")
        neighbour.write_progress({"done": 1})
        run = make_run(tmp_path, encoder, storage="s3://llambert-test/runs [a-z]", **lasting)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        kill_a_worker_after_its_first_checkpoint(run)
        checkpoint = run.table("checkpoint")
        for part in checkpoint.require_manifest().parts:
            target = tmp_path / "fetched" / part.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(checkpoint.filesystem.cat_file(checkpoint.path(part.name)))
        assert run.table("training").filesystem.find(run.table("training").path()) == []
        assert neighbour.read_progress() == {"done": 1}
        ray.shutdown()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fetched")
    fetched = torch.cat([value.flatten() for value in model.state_dict().values()])
    assert torch.allclose(fetched, weights(undisturbed), atol=1e-4)
