"""Which exceptions are faults of a device, a network or a machine: another process or node may not have them.

Types decide. The text of a message does only where PyTorch raises a plain ``RuntimeError`` for a fault of its device.
"""

import errno
import re
import sys
from collections.abc import Iterator
from typing import Any

from llambert.errors import InputError, described

# Of a path that is wrong or not allowed: the same everywhere. Any other number is a fault of disk or network.
_LASTING_ERRNOS = frozenset(
    {
        *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
        *(errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EROFS, errno.EXDEV),
    }
)
_PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
# As ATen's macros and torch.cuda write them: C10_CUDA_CHECK's own type, torch.AcceleratorError, covers the runtime's
# errors alone; cuBLAS, cuDNN, NCCL and a device that cannot be initialized are plain RuntimeErrors.
_DEVICE_TEXT = re.compile(
    r"CUDA error|CUDA driver error|CUDA unknown error|CUDA out of memory|CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|"
    r"NCCL error|No CUDA GPUs are available|Found no NVIDIA driver|cudaGetDeviceCount|no CUDA-capable device|"
    r"NVML_SUCCESS|device-side assert"
)
# vLLM 0.32 raises a ValueError where another process holds the GPU's memory.
_DEVICE_VALUE_TEXT = re.compile(r"Free memory on device|Error in memory profiling")
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?")


class PassingFault(InputError):
    """A fault of a device, a network or a machine, in one line: tried again in another process before it is said."""


def is_passing(error: BaseException) -> bool:
    """Whether another process or node may succeed where this exception, or one that caused it, was raised."""
    return any(_is_passing(each) for each in _causes(error))


def is_device_fault(error: BaseException) -> bool:
    """Whether a GPU or the group of workers on GPUs failed; not where the GPU's memory was too small for a batch."""
    memory = _types("torch", "OutOfMemoryError")
    return any(_is_device_fault(each) and not isinstance(each, memory) for each in _causes(error))


def is_passing_line(line: str) -> bool:
    """``is_passing`` of an exception of which another process printed ``Type: message``."""
    name, _, message = line.partition(": ")
    kind = name.rpartition(".")[2]
    if kind in ("OutOfMemoryError", "AcceleratorError", "DistBackendError", "DistNetworkError", "DistStoreError"):
        return True
    patterns = {"RuntimeError": _DEVICE_TEXT, "ValueError": _DEVICE_VALUE_TEXT}
    return kind in patterns and bool(patterns[kind].search(message))


def fault_kind(error: BaseException) -> str:
    """Type and message without its numbers: the same for faults of one kind, whatever process, address or size."""
    return _NUMBERS.sub("#", described(error))


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, PassingFault) or _is_device_fault(error):
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status in _PASSING_STATUSES
    if isinstance(error, (ConnectionError, TimeoutError, *_types("httpx2", "TransportError"))):
        # A program that is told to stay offline gets a ConnectionError of the hub's own.
        return not isinstance(error, _types("huggingface_hub.errors", "OfflineModeIsEnabled"))
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _LASTING_ERRNOS


def _is_device_fault(error: BaseException) -> bool:
    if isinstance(error, _types("torch", "OutOfMemoryError", "AcceleratorError")):
        return True
    if isinstance(error, _types("torch.distributed", "DistError")):
        return True
    return type(error) is RuntimeError and bool(_DEVICE_TEXT.search(str(error)))


def _types(module: str, *names: str) -> tuple[type[BaseException], ...]:
    """Exceptions of a library that need not be imported here: where it is not, none of them was raised."""
    loaded: Any = sys.modules.get(module)
    return tuple(getattr(loaded, name) for name in names if hasattr(loaded, name))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was raised from."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__
