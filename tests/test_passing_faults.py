"""Faults of devices, networks and machines are told from those of a model, a recipe or the code."""

import errno
import subprocess
import sys

import pytest
import torch

from llambert.classifier.loading import loading, raise_passing
from llambert.errors import InputError, UnfitModel
from llambert.passing_faults import PassingFault, fault_kind, is_device_fault, is_passing, is_passing_line
from tests.execution.failing_workers import FAULTS

PASSING = [FAULTS[name]() for name in ("memory", "assert", "ecc", "no device", "nccl", "disk", "reset")]
LASTING = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ValueError("CUDA error is no word for a value"),
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError("no file named model.safetensors"),
    MemoryError(),
    KeyError("model_type"),
    UnfitModel("it lacks weights"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_a_fault_of_a_device_or_network_passes_and_what_was_raised_from_it(error):
    assert is_passing(error)
    with pytest.raises(ValueError, match="it cannot be read") as outer:
        raise ValueError("it cannot be read") from error
    assert is_passing(outer.value)
    with (
        pytest.raises(PassingFault, match=r"^annotator\.model: x cannot be loaded: "),
        loading("annotator.model: x", "annotator"),
    ):
        raise error
    with pytest.raises(PassingFault):
        raise_passing(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_a_fault_of_the_model_or_the_code_does_not(error):
    assert not is_passing(error)
    raise_passing(error)
    with (
        pytest.raises(InputError, match=r"^annotator\.model: x") as refused,
        loading("annotator.model: x", "annotator"),
    ):
        raise error
    assert not isinstance(refused.value, PassingFault)


def test_a_batch_that_is_too_large_for_a_gpu_is_no_fault_of_the_gpu():
    assert not is_device_fault(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_device_fault(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))


def test_faults_of_one_kind_are_known_by_it_whatever_process_and_size_they_name():
    first, second = (
        torch.OutOfMemoryError(f"CUDA out of memory. Process {n} has {n}.5 GiB at 0x7f{n}") for n in (41, 7)
    )
    assert fault_kind(first) == fault_kind(second)
    assert fault_kind(first) != fault_kind(torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"))


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("torch.AcceleratorError: CUDA error: device-side assert triggered", True),
        ("torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:93", True),
        ("RuntimeError: No CUDA GPUs are available", True),
        ("ValueError: Free memory on device cuda:0 (1.1/79.1 GiB) on startup is less than desired", True),
        ("RuntimeError: The size of tensor a (3) must match the size of tensor b (4)", False),
        ("ValueError: No available memory for the cache blocks", False),
        ("KeyError: 'layers.0'", False),
    ],
)
def test_what_an_engine_process_printed_is_told_apart_by_its_type(line, passes):
    assert is_passing_line(line) is passes


def test_pytorch_is_not_imported_to_look_at_an_exception():
    code = "import sys; from llambert.passing_faults import is_passing; assert not is_passing(ValueError()); "
    code += "assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
