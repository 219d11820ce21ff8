"""Faster inference on a CPU, kept only where the model's answers stay the same."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from transformers import PreTrainedModel

from llambert.classifier import onednn
from llambert.classifier.architecture import MODEL_ERRORS, InputFormat, logits_match, position_padding_index
from llambert.classifier.batching import pack_batch
from llambert.classifier.packing import enable_packing, supports_packing

log = logging.getLogger(__name__)


def accelerate(
    model: PreTrainedModel,
    input_format: InputFormat,
    texts: list[np.ndarray],
    few_texts: bool,
    reload: Callable[[], PreTrainedModel],
) -> tuple[PreTrainedModel, bool]:
    """The model with oneDNN's linear layers and, for ``few_texts``, packing; and whether it takes packs.

    Each change is kept only if the model supports it and gives ``texts`` the same logits as before. ``reload`` loads
    the unchanged model again after a failed attempt.
    """
    inputs = {False: input_format.model_inputs(texts)}
    with torch.inference_mode():
        expected = model(**inputs[False]).logits.float()
    try_packing = few_texts and supports_packing(model)
    inputs[True] = pack_batch(np.arange(len(texts)), texts, position_padding_index(model)).inputs
    for with_onednn, with_packing in dict.fromkeys([(True, try_packing), (True, False), (False, try_packing)]):
        if with_onednn and not onednn.available():
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
