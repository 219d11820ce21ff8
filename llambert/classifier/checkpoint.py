"""A fine-tuned classifier as it is stored: a Hugging Face folder, read without Ray."""

from contextlib import AbstractContextManager

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from llambert.classifier.architecture import (
    allow_missing_padding_token,
    cast_parameters,
    complete_config,
    load_tokenizer,
    num_embeddings,
    unsupported_model_reason,
)
from llambert.classifier.loading import loading
from llambert.classifier.weights import build_without_memory, require_all_layers
from llambert.errors import InputError
from llambert.storage.model_folder import check_model_folder
from llambert.storage.reference import local_copy

_CLASSIFIERS = frozenset(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values())


def load_checkpoint(
    checkpoint: str, dtype: torch.dtype, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model, its weights in ``dtype``, and its tokenizer; weights are read from safetensors only.

    Attention is PyTorch's fused one if the model's family supports it. ``InputError``: the checkpoint does not exist,
    is not fine-tuned to classify, has no fast tokenizer, or has custom code that is not trusted.
    """
    config, tokenizer = load_config_and_tokenizer(checkpoint, trust_remote_code)
    location = local_copy(checkpoint)
    with _loading(checkpoint, "classifier"):
        build_without_memory(
            lambda: AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust_remote_code),
            location,
        )
        model, report = AutoModelForSequenceClassification.from_pretrained(
            location,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below with their names
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
        require_all_layers(model, report["missing_keys"], report["unexpected_keys"])
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(f"{checkpoint}: it lacks the weights {missing}: a model that was not fine-tuned to classify")
    for name, stored, stated in sorted(report["mismatched_keys"]):
        raise InputError(
            f"{checkpoint}: its weights {name} have the shape {tuple(stored)}, and its config.json (id2label names "
            f"{config.num_labels} outputs) asks for {tuple(stated)}"
        )
    if tokenizer.vocab_size > (num_known := num_embeddings(model)):
        raise InputError(
            f"{checkpoint}: its tokenizer has {tokenizer.vocab_size} tokens, its model has embeddings for {num_known}"
        )
    cast_parameters(model, dtype)
    allow_missing_padding_token(model)
    return model.eval(), tokenizer


def load_config_and_tokenizer(
    checkpoint: str, trust_remote_code: bool = False
) -> tuple[PreTrainedConfig, PreTrainedTokenizerFast]:
    """Configuration and tokenizer of a checkpoint; ``InputError`` if they are not those of a classifier.

    Fast enough to run before Ray starts: no weights are read.
    """
    location = local_copy(checkpoint)
    with _loading(checkpoint, "classifier"):
        check_model_folder(location)
        config = AutoConfig.from_pretrained(location, trust_remote_code=trust_remote_code)
    if reason := _unsupported_reason(config):
        raise InputError(f"{checkpoint}: {reason}")
    with _loading(checkpoint, "tokenizer"):
        tokenizer = load_tokenizer(location, trust_remote_code=trust_remote_code)
    complete_config(config)
    return config, tokenizer


def _loading(checkpoint: str, what: str) -> AbstractContextManager[None]:
    return loading(checkpoint, "label", f"{checkpoint}: no {what} can be loaded from it")


def _unsupported_reason(config: PreTrainedConfig) -> str | None:
    """Why a model of this configuration cannot assign one of several categories to a text; None if it can."""
    if reason := unsupported_model_reason(config):
        return reason
    others = [name for name in config.architectures or [] if hasattr(transformers, name) and name not in _CLASSIFIERS]
    if others:
        return f"it is a {others[0]}, a model that was not fine-tuned to classify texts"
    if config.problem_type not in (None, "single_label_classification"):
        return (
            f"its problem_type is {config.problem_type}, and llambert gives a text one of several categories; "
            "use a classifier fine-tuned with single_label_classification"
        )
    names = config.id2label or {}
    if len(names) < 2:
        return "its head has one output (a score or a regression), which gives no label; two categories are needed"
    if sorted(names) != list(range(len(names))):
        return f"id2label in its config.json must name the outputs 0 to {len(names) - 1}, and names {sorted(names)}"
    if unnamed := [number for number, name in names.items() if not isinstance(name, str) or not name.strip()]:
        return f"id2label in its config.json gives no name to output {unnamed[0]}"
    if duplicates := [name for name in names.values() if list(names.values()).count(name) > 1]:
        return f"id2label in its config.json gives the name {duplicates[0]!r} to several outputs"
    return None
