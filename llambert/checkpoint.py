"""A fine-tuned classifier as it is stored: a Hugging Face folder, read without Ray."""

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from llambert.errors import InputError, loading_fault
from llambert.reference import local_copy

_FAULTS = (OSError, ValueError, SafetensorError)


def load_checkpoint(
    checkpoint: str, dtype: torch.dtype, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model, its weights in ``dtype``, and its tokenizer; weights are read from safetensors alone.

    ``InputError``: not there, not fine-tuned to classify, no Rust tokenizer, or code of its own that is not trusted.
    """
    location = local_copy(checkpoint)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            location,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    except _FAULTS as error:
        reason = loading_fault(error, "label")
        raise InputError(f"{checkpoint}: no classifier can be loaded from it: {reason}") from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(f"{checkpoint}: it lacks the weights {missing}: a model that was not fine-tuned to classify")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code)
    except _FAULTS as error:
        reason = loading_fault(error, "label")
        raise InputError(f"{checkpoint}: no tokenizer can be loaded from it: {reason}") from error
    if not tokenizer.is_fast:
        raise InputError(f"{checkpoint}: its tokenizer has no fast (Rust) form, which llambert needs")
    return model.eval(), tokenizer


def longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens of a text that model and tokenizer take, special ones included."""
    return min(tokenizer.model_max_length, model.config.max_position_embeddings - first_position(model))


def first_position(model: PreTrainedModel) -> int:
    """The position of a text's first token: RoBERTa's start after the padding id; BERT's have none."""
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding_index = getattr(positions, "padding_idx", None)
    return 0 if padding_index is None else padding_index + 1
