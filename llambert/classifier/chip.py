"""What a model is computed on, and what follows from it: dtype and batch size, and the last digits of results."""

import platform
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from llambert.errors import InputError

Capability = tuple[int, int]
"""CUDA's compute capability: 7.5 is a T4, 8.0 an A100, 8.6 an A10G, 8.9 an L4, 9.0 an H100."""
HalfPrecision = Literal["bfloat16", "float16"]

BFLOAT16_CAPABILITY: Capability = (8, 0)
"""The first with bfloat16 in its tensor cores; older ones compute it an order of magnitude slower, or not at all."""

CPU_BATCH_TOKENS, MIN_BATCH_TOKENS, MAX_BATCH_TOKENS = 2048, 4096, 65_536
FLOAT16_NEEDS_GPU = "label.dtype: float16 needs a GPU; on a CPU use float32, or bfloat16 where the chip has it"

_CPU_INFO = Path("/proc/cpuinfo")


def chip_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the instruction set that PyTorch uses of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
                break
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def half_precision(capabilities: Collection[Capability]) -> HalfPrecision | None:
    """What GPUs of these capabilities compute fastest in; None if there is none.

    ``float16`` only if all are too old for ``bfloat16``, which has the range of float32: no model overflows in it.
    """
    if not capabilities:
        return None
    return "bfloat16" if max(capabilities) >= BFLOAT16_CAPABILITY else "float16"


def half_precision_here() -> HalfPrecision | None:
    """``half_precision`` of the GPUs of this machine that PyTorch can use."""
    num = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return half_precision([torch.cuda.get_device_capability(number) for number in range(num)])


def require_dtype(dtype: str, name: str, capability: Capability) -> None:
    """``InputError`` if a GPU is too old for ``dtype``."""
    if dtype == "bfloat16" and capability < BFLOAT16_CAPABILITY:
        version = ".".join(map(str, capability))
        raise InputError(
            f"label.dtype: bfloat16 needs a GPU of compute capability 8.0 or higher, and {name} has {version}; "
            "set label.dtype: float16"
        )


def batch_tokens_for(total_memory: int, share: float, config: PreTrainedConfig, bytes_per_value: int) -> int:
    """Token positions of a batch that keep a GPU busy and need at most a quarter of its memory, in thousands of 1,024.

    65,536 positions are 40 TFLOP in roberta-large, 80 ms of an H100: launches and copies are hidden behind them. A
    layer holds about eight vectors of the hidden size and two of the intermediate size for each position at once.
    From the memory that the GPU (``share`` of it) has, not from what is free: batches must not depend on who else
    is there. A batch that does not fit after all is halved.
    """
    text = config.get_text_config()
    hidden = getattr(text, "hidden_size", None) or 1024
    intermediate = getattr(text, "intermediate_size", None) or 4 * hidden
    each = (8 * hidden + 2 * intermediate) * bytes_per_value
    fitting = int(total_memory * min(share, 1.0) / 4 / each)
    return max(MIN_BATCH_TOKENS, min(MAX_BATCH_TOKENS, fitting // 1024 * 1024))


def resolved_dtype(dtype: str | None, device: torch.device) -> str:
    """``dtype``, or the device's own; ``InputError`` if the device cannot compute in it.

    float32 is true float32 on a GPU too: TF32 keeps 10 bits of a product's factors, as float16 does, so near-ties
    (``inference.TIE_MARGIN``) would be decided by noise. Where that is acceptable, half precision is faster.
    """
    if device.type == "cpu":
        if dtype == "float16":
            raise InputError(FLOAT16_NEEDS_GPU)
        return dtype or "float32"
    capability = torch.cuda.get_device_capability(device)
    dtype = dtype or half_precision([capability]) or "float32"
    require_dtype(dtype, torch.cuda.get_device_name(device), capability)
    if dtype == "float32":
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
    return dtype


def batch_tokens(model: PreTrainedModel, device: torch.device, gpu_share: float = 1.0) -> int:
    """The default number of token positions of a batch of ``model``."""
    if device.type == "cpu":
        return CPU_BATCH_TOKENS
    total_memory = torch.cuda.get_device_properties(device).total_memory
    return batch_tokens_for(total_memory, gpu_share, model.config, next(model.parameters()).element_size())
