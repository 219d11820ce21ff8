"""A program that is stopped, at whatever point, says so in one line, leaves no process, and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from llambert.integrity.status import render, status
from llambert.integrity.verify import verify
from llambert.run import open_run
from tests.fixtures.processes import descendants, kill_group
from tests.fixtures.tiny_classifier import save_tiny_classifier
from tests.fixtures.tiny_llm import save_tiny_llm

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """\
name: films
task: reviews
corpus: {path: films.jsonl, rows_per_part: 20}
annotator: {model: ./llm, dtype: float32, prompt: completion, mode: score, num_records: 60, records_per_part: 10}
parse: {prior_correction: batch}
classifier: {model: ./encoder, epochs: 200, max_length: 32, checkpoint_every_s: 0}
storage: run
"""
LINE = "llambert: stopped by {}; what is committed is kept: start the same command again to resume"
_PROGRESS = (" left", "/s")
BARE = """\
import os, signal, sys, threading, time
from llambert import stopping
stopping.install()
"""


def run_bare(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BARE + code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_one_line_whatever_is_raised_on_the_way_out(number):
    code = f"""
def work():
    threading.Thread(target=fail_later, daemon=True).start()
    try:
        os.kill(os.getpid(), {int(number)})
        time.sleep(30)
    finally:
        time.sleep(0.3)
        raise OSError("the cluster is gone")
def fail_later():
    time.sleep(0.1)
    raise RuntimeError("a thread's complaint")
stopping.run(work)
"""
    done = run_bare(code)
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == LINE.format(number.name) + "\n"


def test_one_signal_is_not_taken_for_two():
    code = """
def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    finally:
        time.sleep(0.5)
        print("cleaned up", flush=True)
stopping.run(work)
"""
    assert {run_bare(code).stdout for _ in range(5)} == {"cleaned up\n"}


def test_a_second_signal_ends_a_program_that_does_not_come_to_an_end():
    code = """
def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    finally:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            try:
                time.sleep(30)
            except BaseException:
                pass
stopping.run(work)
"""
    done = run_bare(code)
    assert (done.returncode, done.stderr) == (143, LINE.format("SIGTERM") + "\n")


def test_a_program_that_cannot_be_left_is_ended_after_a_while():
    code = """
stopping.GRACE_S = 0.3
def work():
    os.kill(os.getpid(), signal.SIGTERM)
def cling():
    while True:
        try:
            work()
            time.sleep(30)
        except BaseException:
            threading.Event().wait()
with stopping.recorded(lambda: print("recorded as stopped by", stopping.stopped_by(), flush=True)):
    stopping.run(cling)
"""
    done = run_bare(code)
    assert (done.returncode, done.stdout) == (143, "recorded as stopped by SIGTERM\n")


def test_a_module_that_is_being_imported_is_imported_to_its_end(tmp_path):
    module = "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.2)\nprint('imported', flush=True)\n"
    (tmp_path / "extension.py").write_text("import os, signal, time\n" + module)
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
def work():
    import extension
    while True:
        pass
stopping.run(work)
"""
    done = run_bare(code)
    assert (done.returncode, done.stdout, done.stderr) == (143, "imported\n", LINE.format("SIGTERM") + "\n")


def test_what_aborts_after_a_signal_does_not_keep_its_line_from_being_said():
    code = """
def work():
    threading.Timer(0.3, os._exit, (1,)).start()
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        try:
            time.sleep(30)
        except BaseException:
            pass
stopping.run(work)
"""
    assert run_bare(code).stderr == LINE.format("SIGTERM") + "\n"


def test_a_library_that_takes_the_signal_does_not_keep_it():
    code = """
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as Ray does while it starts
def work():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
stopping.run(work)
"""
    done = run_bare(code)
    assert (done.returncode, done.stderr) == (143, LINE.format("SIGTERM") + "\n")


def test_a_forked_process_is_ended_as_any_other_and_its_parent_hears_nothing_of_it():
    code = """
def work():
    child = os.fork()
    if child == 0:
        time.sleep(30)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    time.sleep(0.3)
stopping.run(work)
"""
    done = run_bare(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "-15\n", "")


def test_an_error_without_a_signal_is_raised_as_it_is():
    done = run_bare("stopping.run(lambda: 1 / 0)")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.fixture
def workplace(tmp_path) -> Path:
    save_tiny_llm(tmp_path / "llm")
    save_tiny_classifier(tmp_path / "encoder")
    words = ["good", "great", "moving", "bad", "dull", "never"]
    rows = [{"record_id": f"r{n}", "text": f"the film is {words[n % 6]} {n}"} for n in range(200)]
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def start(folder: Path, *command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def stop(process: subprocess.Popen, when: Callable[[], bool], number: int, whole_group: bool = False) -> list[str]:
    """Send a signal once ``when`` holds; the lines of stderr but for those of progress."""
    deadline = time.monotonic() + 200
    while not when():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    try:
        _, stderr = process.communicate(timeout=120)
    finally:
        kill_group(process.pid)
    _, alive = psutil.wait_procs(family, timeout=20)
    for orphan in alive:
        orphan.kill()
    assert not [orphan for orphan in alive if orphan.status() != psutil.STATUS_ZOMBIE], "a process outlived the program"
    return [line for line in stderr.splitlines() if not any(known in line for known in _PROGRESS)]


LLAMBERT = ("-c", "from llambert.program import main; main()")
PIPELINE = (*LLAMBERT, "run", "recipe.yaml")


def parts_of(folder: Path, table: str) -> Callable[[], bool]:
    pattern = "*/part-*" if table == "answers" else "*/*"  # beside these it says who is asked
    return lambda: any((folder / "run" / table).glob(pattern))


def runs(process: subprocess.Popen, kind: str) -> Callable[[], bool]:
    return lambda: bool(descendants(process.pid, kind))


def after(process: subprocess.Popen, seconds: float) -> Callable[[], bool]:
    """So long after the program has taken the signals: the first thing it does."""
    begin: list[float] = []

    def is_over() -> bool:
        [caught] = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line]
        if int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1):
            begin.append(time.monotonic())
        return bool(begin) and time.monotonic() >= begin[0] + seconds

    return is_over


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("table", ["recipe.yaml", "corpus", "answers", "training", "checkpoint"])
def test_a_run_in_one_process_is_stopped_at_any_point_and_resumes(workplace, table, number, monkeypatch):
    process = start(workplace, *PIPELINE, "--in-process")
    when = (workplace / "run/recipe.yaml").exists if table == "recipe.yaml" else parts_of(workplace, table)
    assert stop(process, when, number) == [LINE.format(number.name)]
    assert process.returncode == 128 + number
    monkeypatch.chdir(workplace)
    run = open_run("recipe.yaml")
    shown = render(status(run))
    assert "failed" not in shown
    if table in ("training", "checkpoint"):
        assert f"checkpoint: stopped by {number.name}; start the same command again to resume" in shown, shown
    done = subprocess.run(
        [sys.executable, *PIPELINE, "--in-process", "--set", "classifier.epochs=200"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert verify(run) == []
    assert "stopped by" not in render(status(run))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number", "whole_group"),
    [
        ("start", signal.SIGTERM, False),
        ("GCS", signal.SIGTERM, False),
        ("raylet", signal.SIGINT, True),
        ("actor", signal.SIGTERM, True),
        ("train controller", signal.SIGTERM, False),
        ("train controller", signal.SIGTERM, True),
        ("train controller", signal.SIGINT, True),
        ("train worker", signal.SIGTERM, False),
        ("train worker", signal.SIGINT, False),
        ("training", signal.SIGTERM, True),
    ],
)
def test_a_run_on_ray_is_stopped_at_any_point(workplace, kind, number, whole_group, monkeypatch):
    process = start(workplace, *PIPELINE)
    when = {"start": after(process, 1.5), "training": parts_of(workplace, "training")}.get(kind) or runs(process, kind)
    assert stop(process, when, number, whole_group) == [LINE.format(number.name)]
    assert process.returncode == 128 + number, "Ray's C++ ends a process with 1 that misses its object store"
    monkeypatch.chdir(workplace)
    if (workplace / "run/recipe.yaml").exists():
        shown = render(status(open_run("recipe.yaml")))
        assert "failed" not in shown, shown
        if "train" in kind:
            assert f"checkpoint: stopped by {number.name}; start the same command again to resume" in shown, shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        (f"{ROOT}/jobs/ingest.py", "recipe.yaml"),
        (f"{ROOT}/jobs/pipeline.py", "recipe.yaml", "--in-process"),
        (f"{ROOT}/jobs/experiments.py", "recipe.yaml"),
        (*LLAMBERT, "try", "recipe.yaml"),
        (*LLAMBERT, "plan", "recipe.yaml"),
    ],
    ids=lambda command: " ".join(command)[-40:],
)
@pytest.mark.parametrize("delay_s", [0.0, 1.5])
def test_every_program_is_stopped_while_it_still_imports_what_it_needs(workplace, command, delay_s):
    process = start(workplace, *command)
    lines = stop(process, after(process, delay_s), signal.SIGINT)
    assert (lines, process.returncode) == ([LINE.format("SIGINT")], 130)
