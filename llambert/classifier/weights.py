"""Whether stored weights are those of the model that a configuration describes, before and after they are loaded."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn.modules import module as torch_modules
from transformers import PreTrainedModel

from llambert.errors import UnfitModel
from llambert.storage.model_folder import num_weight_bytes

_SPARE_MODULES, _BYTES_PER_MODULE = 10_000, 1_000  # a mixture of experts has many modules, and weights for them
_SPARE_NUMBERS = 1 << 26  # a new head, buffers, embeddings that are later shared: 256 MiB in float32
_MAX_MISSING_SHARE = 0.25  # of the encoder's weights; a missing pooler, which is part of a head, is far less
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def build_without_memory(build: Callable[[], Any], location: str, values_per_byte: int = 1) -> PreTrainedModel:
    """The model that ``build`` makes, on the meta device; ``UnfitModel`` once it outgrows the weights at ``location``.

    ``values_per_byte``: how many numbers a byte of the stored weights holds at most. A configuration can state any
    number of layers and any size: it is stopped while they are made, before memory is taken for them.
    """
    num_bytes = num_weight_bytes(location)
    max_numbers, max_modules = (
        num_bytes * values_per_byte + _SPARE_NUMBERS,
        num_bytes // _BYTES_PER_MODULE + _SPARE_MODULES,
    )
    num_modules = num_numbers = 0
    thread = threading.get_ident()

    def count(_module: Any, name: str, part: Any) -> None:
        nonlocal num_modules, num_numbers
        if part is None or threading.get_ident() != thread:
            return
        num_modules += isinstance(part, torch.nn.Module)
        num_numbers += part.numel() if isinstance(part, torch.Tensor) else 0
        if num_modules > max_modules or num_numbers > max_numbers:
            size = f"{num_numbers:,} numbers" if num_numbers > max_numbers else f"{num_modules:,} layers and parts"
            raise UnfitModel(
                f"its config.json describes a model of at least {size} ({name}), "
                f"and its weights have {num_bytes:,} bytes"
            )

    with contextlib.ExitStack() as hooks:
        for register in (
            torch_modules.register_module_module_registration_hook,
            torch_modules.register_module_parameter_registration_hook,
            torch_modules.register_module_buffer_registration_hook,
        ):
            hooks.callback(register(count).remove)
        with torch.device("meta"):
            model: PreTrainedModel = build()
    return model


def require_all_layers(model: PreTrainedModel, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """``UnfitModel`` if the weights have fewer or more layers than the configuration states.

    transformers would initialize the ones at random, and leave out the others.
    """
    missing, unexpected = sorted(missing), sorted(unexpected)
    names = set(model.state_dict())
    present = {_NUMBER.sub("N", name) for name in names - set(missing)}
    prefix = f"{model.base_model_prefix}."
    for name in missing:
        if _NUMBER.search(name) and _NUMBER.sub("N", name) in present:
            raise UnfitModel(f"it lacks weights of the model that its config.json describes, for example {name}")
    for name in unexpected:
        pattern = _NUMBER.sub("N", name)
        if {name, f"{prefix}{name}"} & names:  # of a header, which lists them all
            continue
        if _NUMBER.search(name) and {pattern, f"{prefix}{pattern}", pattern.removeprefix(prefix)} & present:
            raise UnfitModel(f"it has weights that its config.json does not describe, for example {name}")


def require_encoder_weights(model: PreTrainedModel, missing: Iterable[str], mismatched: Iterable[str]) -> None:
    """``UnfitModel`` if weights other than the head's are missing: they would be initialized at random."""
    missing = list(missing)
    prefix = f"{model.base_model_prefix}."
    other = [name for name in mismatched if name.startswith(prefix)]
    if other:
        raise UnfitModel(f"its weights do not have the shapes that its config.json states, for example {other[0]}")
    sizes = {name: tensor.numel() for name, tensor in model.state_dict().items() if name.startswith(prefix)}
    if sum(sizes.get(name, 0) for name in missing) > _MAX_MISSING_SHARE * sum(sizes.values()):
        absent = next(name for name in missing if name in sizes)
        raise UnfitModel(f"it lacks weights of the model that its config.json describes, for example {absent}")


def require_all_weights(model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """``UnfitModel`` unless transformers' ``report`` says that every weight of ``model`` was read as described."""
    require_all_layers(model, report["missing_keys"], report["unexpected_keys"])
    for name, stored, stated in sorted(report["mismatched_keys"]):
        raise UnfitModel(
            f"its weights {name} have the shape {tuple(stored)}, and its config.json asks for {tuple(stated)}"
        )
    for name in sorted(report["missing_keys"]):
        raise UnfitModel(f"it lacks weights of the model that its config.json describes, for example {name}")
