"""What fine-tuning does about silver records that came after it."""

import pytest

from llambert.responses import ANSWERS
from llambert.run_directory import Manifest, write_whole
from llambert.stages.finetune import finetune
from llambert.stages.finetune_records import drop_outdated_training


def write(run, name: str, num: int, **fields) -> Manifest:
    stage = {"silver": "parse", "checkpoint": "finetune"}[name]
    manifest = Manifest(stage=stage, fingerprint="f", num_in=num, num_kept=num, wall_seconds=0.0, **fields)
    return run.table(name).write_manifest(manifest)


def test_records_answered_after_the_training_are_said_with_how_to_train_on_them(make_run, capsys):
    run = make_run(num_records=8)
    write(run, "silver", 8)
    checkpoint = write(run, "checkpoint", 8, counts={"num_silver": 8})
    assert finetune(run) == checkpoint
    assert capsys.readouterr().out == ""
    write(run, "silver", 11, upstream={ANSWERS: "v1"})
    assert finetune(run) == checkpoint  # which stays
    (line,) = capsys.readouterr().out.splitlines()
    assert "older than some silver labels and has not learned from them (3 of 11)" in line
    assert run.table("checkpoint").uri in line


@pytest.mark.parametrize(("later", "is_kept"), [("v1", True), ("v2", False)])
def test_training_that_was_interrupted_is_not_resumed_on_other_records(make_run, later, is_kept):
    run = make_run(num_records=8)
    training = run.table("training")
    write(run, "silver", 8, upstream={ANSWERS: "v1"})
    drop_outdated_training(run)
    write_whole(training.filesystem, training.path("state"), b"half way")
    write(run, "silver", 9, upstream={ANSWERS: later})
    drop_outdated_training(run)
    assert training.filesystem.exists(training.path("state")) == is_kept


def test_training_from_before_any_answer_came_later_is_dropped_then(make_run):
    run = make_run(num_records=8)
    training = run.table("training")
    write(run, "silver", 8)
    drop_outdated_training(run)
    write_whole(training.filesystem, training.path("state"), b"half way")
    drop_outdated_training(run)
    assert training.filesystem.exists(training.path("state"))
    write(run, "silver", 9, upstream={ANSWERS: "v1"})
    drop_outdated_training(run)
    assert not training.filesystem.exists(training.path("state"))
