"""What storage does to the label stage: it waits where waiting helps, and says one clear line where it does not."""

import os
import subprocess
import threading

import fsspec
import pytest

from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.integrity.verify import verify
from llambert.run import Run
from llambert.stages.label import label
from tests.fixtures.faulty_proxy import faulty_proxy
from tests.fixtures.label_runs import fill, make_run
from tests.fixtures.noting_executor import NotingExecutor
from tests.fixtures.s3_server import LIMITED_KEY, S3Server
from tests.fixtures.tiny_classifier import tiny_texts

NUM_RECORDS = 70


@pytest.fixture
def executor():
    return NotingExecutor()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The labels of a run on local disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = make_run(folder)
    labels = fill(run, tiny_texts(NUM_RECORDS), folder / "encoder", gold=True).table("labels")
    label(run, IN_PROCESS)
    return labels.read()


def run_on(folder, storage: str) -> Run:
    run = make_run(folder, storage)
    return fill(run, tiny_texts(NUM_RECORDS), folder / "encoder", gold=True)


def wrong(run: Run) -> list[str]:
    return [str(finding) for finding in verify(run) if finding.table in ("corpus", "labels", "label_rejects")]


@pytest.mark.s3
@pytest.mark.slow
def test_a_server_killed_and_restarted_while_parts_are_labelled_costs_no_record(
    tmp_path, s3: S3Server, executor, undisturbed
):
    run = run_on(tmp_path, "s3://llambert-test/killed")

    def kill_and_start_later(number):
        if number == 2:
            s3.kill()
            threading.Timer(2, s3.start).start()

    executor.before_unit = kill_and_start_later
    assert label(run, executor).num_kept == NUM_RECORDS
    assert run.table("labels").read() == undisturbed
    assert wrong(run) == []


@pytest.mark.s3
def test_a_store_that_says_slow_down_is_asked_again(tmp_path, s3: S3Server, monkeypatch, undisturbed):
    run_on(tmp_path, "s3://llambert-test/slow")
    with faulty_proxy(s3.endpoint, lambda number: number % 3 == 0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        fsspec.filesystem("s3").clear_instance_cache()
        run = make_run(tmp_path, "s3://llambert-test/slow")
        assert label(run, IN_PROCESS).num_kept == NUM_RECORDS
        assert proxy.num_turned_away > 5
        assert run.table("labels").read() == undisturbed
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.s3
def test_wrong_credentials_and_a_missing_bucket_are_one_line(tmp_path, s3: S3Server, monkeypatch):
    run = run_on(tmp_path, "s3://llambert-test/credentials")
    for name, value, uri in (
        ("AWS_SECRET_ACCESS_KEY", "wrong", "s3://llambert-test/credentials"),
        ("AWS_ACCESS_KEY_ID", LIMITED_KEY, "s3://no-such-bucket/run"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            fsspec.filesystem("s3").clear_instance_cache()
            stranger = Run(run.recipe.model_copy(update={"storage": uri}), run.task)
            with pytest.raises(InputError, match=rf"^storage: {uri}[^\n]*$"):
                stranger.table("labels").write_progress({})
            with pytest.raises(InputError, match=rf"^(storage: )?{uri}[^\n]*$"):
                label(stranger, IN_PROCESS)
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(tmp_path, small_disk, executor, undisturbed):
    run = run_on(tmp_path, str(small_disk / "run"))
    filler = small_disk / "filler"

    def fill_up(number):
        if number == 2:
            filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))

    executor.before_unit = fill_up
    with pytest.raises(InputError, match=r"^storage: [^\n]*No space left on device[^\n]*$"):
        label(run, executor)
    filler.unlink()
    assert len(run.table("labels").part_names()) == 2
    assert label(run, IN_PROCESS).num_kept == NUM_RECORDS
    assert run.table("labels").read() == undisturbed
