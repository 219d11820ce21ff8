"""The encoder with a classification head, its tokenizer, and the folder they are saved as."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llambert.errors import InputError, loading_fault
from llambert.recipe import ClassifierRecipe
from llambert.reference import local_copy

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "hidden_dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "classifier_dropout",
    "seq_classif_dropout",
    "dropout",
)
_TEXTS_PER_CALL = 1000  # bounds the tokenizer's own objects, which take far more memory than the ids
_NO_LIMIT = 1_000_000  # a tokenizer that knows no limit names one above this


@dataclass(frozen=True)
class Encoder:
    """A model to train and the tokenizer that goes with it. ``max_length`` counts special tokens too."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def tokenize(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, cut at ``max_length``."""
        ids: list[np.ndarray] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            encoded = self.tokenizer(
                texts[start : start + _TEXTS_PER_CALL],
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            ids += [np.array(row, dtype=np.int32) for row in encoded["input_ids"]]
        return ids

    def save(self, folder: Path) -> None:
        """Write the Hugging Face folder: safetensors weights, configuration, tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.model_max_length = self.max_length
        self.tokenizer.save_pretrained(folder)


def load_encoder(recipe: ClassifierRecipe, categories: list[str]) -> Encoder:
    """The recipe's encoder with a head for ``categories``, new weights drawn by ``recipe.seed``.

    ``InputError`` if it is missing, or if it is a classifier of other categories already.
    """
    location = local_copy(recipe.model)
    source: dict[str, Any] = {"revision": recipe.revision, "trust_remote_code": recipe.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(location, **source)
        _refuse_other_categories(config, categories, recipe.model)
        config.id2label = dict(enumerate(categories))
        config.label2id = {category: code for code, category in enumerate(categories)}
        if recipe.dropout is not None:
            for name in _DROPOUTS:
                if hasattr(config, name):
                    setattr(config, name, recipe.dropout)
        torch.manual_seed(recipe.seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            location,
            **source,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=None if recipe.pickled_weights else True,
        )
        tokenizer = AutoTokenizer.from_pretrained(location, **source)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = loading_fault(error, "classifier")
        hint = "; classifier.pickled_weights: true takes pickled ones, if you trust them" * ("safetensors" in reason)
        raise InputError(f"classifier.model: {recipe.model} cannot be loaded: {reason}{hint}") from error
    if recipe.freeze_encoder:
        freeze_encoder(model)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Encoder(model, tokenizer, min(recipe.max_length, _longest(model, tokenizer)))


def freeze_encoder(model: PreTrainedModel) -> None:
    """Leave only the head to train; a pooler, which belongs to the head's task, is trained with it."""
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad = name.startswith("pooler.")


def _longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that model and tokenizer take."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < _NO_LIMIT else []
    embeddings = getattr(model.base_model, "embeddings", None)
    positions = getattr(embeddings, "position_embeddings", None)
    if isinstance(positions, torch.nn.Embedding):
        # RoBERTa's positions start after the padding id; BERT's have none.
        reserved = 0 if positions.padding_idx is None else positions.padding_idx + 1
        limits.append(positions.num_embeddings - reserved)
    return min(limits, default=model.config.max_position_embeddings)


def _refuse_other_categories(config: PreTrainedConfig, categories: list[str], reference: str) -> None:
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or []):
        return
    own = [str(name) for _, name in sorted((config.id2label or {}).items())]
    unnamed = all(name.startswith("LABEL_") for name in own)
    if len(own) == len(categories) if unnamed else own == categories:
        return
    raise InputError(
        f"classifier.model: {reference} is a classifier of {f'{len(own)} categories' if unnamed else ', '.join(own)}, "
        f"the task's categories are {', '.join(categories)}; name the encoder it was made from"
    )
