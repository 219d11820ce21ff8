"""A loaded classifier made faster on a CPU, and seen to answer as before: not every family can be changed."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel

from llambert.classifier import onednn
from llambert.classifier.architecture import MODEL_ERRORS, InputFormat, logits_match, position_padding_index
from llambert.classifier.batching import packed
from llambert.classifier.packing import pack, supports_packing

log = logging.getLogger(__name__)


def accelerate(
    model: PreTrainedModel,
    form: InputFormat,
    texts: list[np.ndarray],
    few_texts: bool,
    reload: Callable[[], PreTrainedModel],
) -> tuple[PreTrainedModel, bool]:
    """A model on the CPU with oneDNN's linear layers, packed for few texts where its family allows that, and whether
    it is packed; as far as it then still answers ``texts`` as it did before."""
    arguments = {False: form.arguments(texts)}
    with torch.inference_mode():
        expected = model(**arguments[False]).logits.float()
    wants_packs = few_texts and supports_packing(model)
    arguments[True] = packed(np.arange(len(texts)), texts, position_padding_index(model)).arguments
    for with_onednn, with_packs in dict.fromkeys([(True, wants_packs), (True, False), (False, wants_packs)]):
        if with_onednn and not onednn.available():
            continue
        try:
            if with_onednn:
                onednn.reorder_linear_layers(model)
            if with_packs:
                pack(model)
            with torch.inference_mode():
                found = model(**arguments[with_packs]).logits.float()
            if logits_match(model, found, expected):
                return model, with_packs
        except MODEL_ERRORS as error:
            log.info("%s runs without faster layers: %s", type(model).__name__, error)
        model = reload()
    return model, False
