"""The chip, its name and its peak."""

import shutil
import subprocess
import time

import torch

PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "A10G": 70.0,
    "L40S": 362.0,
    "L4": 121.0,
}
"""TFLOP/s of dense bfloat16 products by part of the device's name, the first that fits. From NVIDIA's data sheets
("Tensor Core" rows; those that state the figure "with sparsity" are halved); "H100" alone is the SXM board."""


def peak_tflops(device: torch.device) -> float | None:
    """Of the chip's data sheet; None for a CPU or a chip that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for chip, peak in PEAK_TFLOPS.items() if chip in name), None)


def driver_version() -> str:
    """As nvidia-smi says it; ``none`` without it."""
    if shutil.which("nvidia-smi") is None:
        return "none"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() or "unknown"


def product_tflops(device: torch.device, size: int) -> float:
    """bfloat16 products of two random square matrices: the best of 20, after two."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for number in range(22):
        synchronize(device)
        started = time.perf_counter()
        left @ right
        synchronize(device)
        if number >= 2:
            best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e12


def synchronize(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
