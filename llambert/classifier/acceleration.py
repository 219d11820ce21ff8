"""Faster inference, kept only where the model's answers stay the same."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from llambert.classifier import onednn
from llambert.classifier.architecture import InputFormat, logits_match, position_padding_index
from llambert.classifier.batching import TEXT_RUNS, pack_batch
from llambert.classifier.loading import MODEL_ERRORS
from llambert.classifier.packing import enable_packing, supports_packing

log = logging.getLogger(__name__)


def accelerate(
    model: PreTrainedModel,
    input_format: InputFormat,
    texts: list[np.ndarray],
    wants_packs: bool,
    reload: Callable[[], PreTrainedModel],
    wants_onednn: bool = True,
) -> tuple[PreTrainedModel, bool]:
    """The model with oneDNN's linear layers on a CPU and, where wanted, packing; and whether it takes packs.

    Each change is kept only if the model supports it and gives ``texts`` the same logits as before. ``reload`` loads
    the unchanged model again after a failed attempt.
    """
    device = next(model.parameters()).device
    has_onednn = wants_onednn and device.type == "cpu" and onednn.available()
    inputs = {False: to_device(input_format.model_inputs(texts), device)}
    with torch.inference_mode():
        expected = model(**inputs[False]).logits.float()
    try_packing = wants_packs and supports_packing(model)
    inputs[True] = to_device(pack_batch(np.arange(len(texts)), texts, position_padding_index(model)).inputs, device)
    for with_onednn, with_packing in dict.fromkeys([(True, try_packing), (True, False), (False, try_packing)]):
        if not (with_onednn or with_packing) or (with_onednn and not has_onednn):
            continue
        try:
            if with_onednn:
                onednn.reorder_linear_layers(model)
            if with_packing:
                enable_packing(model)
            with torch.inference_mode():
                logits = model(**inputs[with_packing]).logits.float()
            if logits_match(model, logits, expected):
                return model, with_packing
        except MODEL_ERRORS as error:
            log.info("%s runs without faster layers: %s", type(model).__name__, error)
        model = reload()
    return model, False


def to_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A model's inputs where it computes; copies from page-locked memory overlap with the GPU's work."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) and name != TEXT_RUNS else value
        for name, value in inputs.items()
    }


def single_threaded_pool(num_threads: int) -> ThreadPoolExecutor:
    """A pool whose threads each run PyTorch's operators single-threaded; the caller's thread count is unchanged."""
    started = threading.Barrier(num_threads + 1)

    def use_one_thread() -> None:
        torch.get_num_threads()  # a thread's first use of PyTorch sets its thread count: do that before setting ours
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(num_threads, "classifier", initializer=use_one_thread)
    for _ in range(num_threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(num_threads)
    return pool
