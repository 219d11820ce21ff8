"""A model of the hub is fetched once, from a hub that is busy, or gated, or gone, by however many processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.fixtures.hub_server import running_hub
from tests.fixtures.tiny_encoder import save_tiny_encoder

PROVIDE = """
import sys
from llambert.errors import InputError
from llambert.storage.reference import local_copy, provide_model
try:
    print(local_copy(provide_model("org/encoder", sys.argv[1], sys.argv[2], spans_machines=sys.argv[3] == "several")))
except InputError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
SLOW = """
def slow(put):
    def put_slowly(filesystem, source, target):
        if target.endswith("safetensors"):
            print("here", flush=True)
            time.sleep(60)
        put(filesystem, source, target)
    return put_slowly
"""
OTHERS = ("model.fp16.safetensors", "pytorch_model.bin", "onnx/model.onnx", "original/model.safetensors", "README.md")


@pytest.fixture
def hub(tmp_path):
    """A model with its weights in other forms, too."""
    save_tiny_encoder(tmp_path / "encoder")
    for name in OTHERS:
        path = tmp_path / "encoder" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not needed")
    with running_hub() as hub:
        hub.repository("models/org/encoder").commit(tmp_path / "encoder")
        yield hub


def provide(hub, tmp_path, places="several", machine="one", code=PROVIDE):
    """A process of a machine that provides the model."""
    place = {name: str(tmp_path / machine / name) for name in ("HF_HOME", "LLAMBERT_CACHE")}
    environment = {**os.environ, **place, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    commit = hub.repository("models/org/encoder").refs["main"]
    return subprocess.Popen(
        [sys.executable, "-c", code, commit, str(tmp_path / "run/models"), places],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finished(process):
    """The folder that a process printed last, and what it said."""
    output, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return output.splitlines()[-1], said


def names(folder):
    return {os.path.relpath(os.path.join(place, name), folder) for place, _, files in os.walk(folder) for name in files}


@pytest.mark.parametrize("places", ["one", "several"])
def test_processes_at_once_fetch_each_file_once_and_only_what_is_needed(hub, tmp_path, places):
    first, second = (provide(hub, tmp_path, places) for _ in range(2))
    folder = finished(first)[0]
    assert finished(second)[0] == folder
    assert folder.startswith(str(tmp_path / ("run/models" if places == "several" else "one/HF_HOME")))
    assert names(folder) == names(tmp_path / "encoder") - set(OTHERS)
    assert set(hub.downloads) == {name.rpartition("/")[2] for name in names(folder)}
    assert set(hub.downloads.values()) == {1}


def test_a_second_machine_reads_the_copy_in_storage_and_asks_the_hub_nothing(hub, tmp_path):
    folder = finished(provide(hub, tmp_path))[0]
    hub.requests.clear()
    assert finished(provide(hub, tmp_path, machine="two"))[0] == folder
    assert hub.requests == []


def test_what_the_machine_has_already_is_copied_to_storage_without_another_download(hub, tmp_path):
    finished(provide(hub, tmp_path, "one"))
    finished(provide(hub, tmp_path, "several"))
    assert set(hub.downloads.values()) == {1}


def test_a_copy_that_was_killed_is_not_taken_for_a_model_and_is_continued(hub, tmp_path):
    slowed = "import time\nfrom llambert.storage import hub\nhub._put = slow(hub._put)\ntry:"
    code = SLOW + PROVIDE.replace("try:", slowed, 1)
    killed = provide(hub, tmp_path, code=code)
    assert killed.stdout.readline() == "here\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "run/models").glob("*.json"))
    before = dict(hub.downloads)
    folder = finished(provide(hub, tmp_path))[0]
    assert names(folder) == names(tmp_path / "encoder") - set(OTHERS)
    (mark,) = (tmp_path / "run/models").glob("*.json")
    assert set(json.loads(mark.read_text())["files"]) == names(folder)
    again = {name for name, number in hub.downloads.items() if number > before.get(name, 0)}
    assert "config.json" not in again
    assert "model.safetensors" in again


def test_a_busy_hub_is_waited_for_as_it_asks_with_one_line(hub, tmp_path):
    hub.refusals = [(429, {"Retry-After": "2"}), (503, {})]
    started = time.monotonic()
    said = finished(provide(hub, tmp_path, "one"))[1]
    assert time.monotonic() - started >= 3
    assert hub.refusals == []
    assert said.count("tried again for up to 30 min") == len(said.splitlines()) == 1
    assert "org/encoder: the hub answers 429" in said


def test_a_hub_that_asks_for_more_time_than_there_is_ends_in_one_line(hub, tmp_path):
    hub.refusals = [(429, {"Retry-After": "86400"})]
    process = provide(hub, tmp_path)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.count("\n") == 1
    assert said.startswith("PassingFault: org/encoder: commit")
    assert "the hub answers 429" in said


def test_a_gated_model_is_one_line_that_says_what_to_do(hub, tmp_path):
    hub.gated = {"org/encoder"}
    for places in ("one", "several"):
        process = provide(hub, tmp_path, places)
        said = process.communicate(timeout=60)[1]
        assert said.count("\n") == 1
        assert said.startswith("InputError: org/encoder: its files are given to accounts that accepted its terms alone")
        assert "set HF_TOKEN" in said
