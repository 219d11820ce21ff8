"""Large files are refused before they are committed; the repository has none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import large_files
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def commit(tmp_path):
    """Commit a file of so many bytes to a new repository with this one's hook; the hook's exit status and output."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=tmp_path, capture_output=True, text=True, check=True)

    git("init", "-q")
    shutil.copy(ROOT / ".pre-commit-config.yaml", tmp_path)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/large_files.py", tmp_path / ".ci")
    (tmp_path / ".venv").symlink_to(sys.prefix)

    def run(num_bytes):
        (tmp_path / "model.bin").write_bytes(bytes(num_bytes))
        git("add", "model.bin", ".pre-commit-config.yaml")
        command = [sys.executable, "-m", "pre_commit", "run", "large-files"]
        environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path / "cache")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout

    return run


def test_a_file_of_a_megabyte_is_refused_before_it_is_committed_and_a_small_one_is_not(commit):
    status, output = commit(1 << 20)
    assert status == 1
    assert "model.bin: 1,048,576 bytes; a file in the repository has at most 300,000" in output
    assert commit(1_000)[0] == 0


def test_every_file_of_the_repository_is_small_enough(capsys):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    files = [str(ROOT / name) for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    assert large_files.main(files) == 0, capsys.readouterr().out
