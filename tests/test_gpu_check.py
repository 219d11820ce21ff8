"""``make gpu-check`` on a CPU at toy sizes: a GPU is rare, and the script must run the first time it meets one."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.benchmarks.gpu_check.report import Line, share_line

_SECTIONS = {
    "chip": ("chip", "bfloat16 product"),
    "classifier": ("training curve", "wrong labels", "labels in float32", "labels in bfloat16"),
    "embedded engine, 135M": (
        "answers in float32",
        "answers in bfloat16",
        "exact ties of a bfloat16 model, float32 head",
        "exact ties of a bfloat16 model, bfloat16 head",
    ),
    **dict.fromkeys(
        ("label, roberta-large", "label, ModernBERT-base"),
        tuple(
            f"{mode}, {texts}"
            for mode in ("as it is", "float32", "bfloat16", "bfloat16, compiled")
            for texts in ("IMDb lengths", "27 tokens")
        ),
    ),
    "fine-tune, roberta-large": ("batch 4 x 64", "batch 4, IMDb lengths"),
    "checkpoint, roberta-large": ("torch.save",),
}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.gpu_check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_every_line_is_in_the_table_and_none_failed():
    done = _run("--device", "cpu", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    for section, names in _SECTIONS.items():
        found = [row[1] for row in rows if row[0] == section]
        for name in names:
            assert any(name in line for line in found), f"{section}: no line {name!r} among {found}"
        assert len(found) == len(names)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_table_says_so_and_the_status_is_1():
    done = _run("--quick")
    assert done.returncode == 1
    rows = [line for line in done.stdout.splitlines() if line.startswith("| chip |")]
    assert len(rows) == 1
    assert "FAILED" in rows[0]
    assert "label" not in done.stdout


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        (lambda *_: time.sleep(60), "not done after 3 s"),
        (lambda *_: os.kill(os.getpid(), signal.SIGKILL), "its process ended with exit code -9"),
        (lambda *_: torch.zeros(2) @ torch.zeros(3), "RuntimeError: inconsistent tensor size"),
    ],
)
def test_a_section_that_hangs_crashes_or_raises_costs_its_own_lines_only(measure, reason, monkeypatch, capsys):
    from tests.benchmarks.gpu_check import sections

    def reports_first(device, sizes, report):
        report(Line("first", "1"))
        measure()

    bad = sections.Section("bad", reports_first, 1)
    good = sections.Section("good", lambda device, sizes, report: report(Line("second", "2")), 30)
    monkeypatch.setattr(sections, "SECTIONS", {"bad": bad, "good": good})
    started = time.monotonic()
    assert sections.run_sections("cpu", True, ["bad", "good"]) == 1
    assert time.monotonic() - started < 30
    table = capsys.readouterr().out
    assert "| bad | first | 1 |" in table
    assert f"| bad | FAILED | FAILED, {reason}" in table
    assert "| good | second | 2 |" in table


def test_a_share_fails_only_where_all_of_its_interval_is_above_the_limit():
    assert not share_line("flips", 1, 48, "prompts", limit=0.02).is_failed  # 0.4 % to 11 %
    assert share_line("flips", 100, 1_000, "prompts", limit=0.02).is_failed


def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path):
    blocked = "import sys; sys.modules['pydantic'] = None; from runpy import run_module; "
    code = blocked + "run_module('tests.benchmarks.gpu_check', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "missing packages: pydantic;" in done.stderr
    assert "pip install --no-index --no-deps --find-links wheels pydantic" in done.stderr
