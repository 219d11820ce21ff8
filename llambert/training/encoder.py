"""The encoder with a classification head: checked before a run, loaded for training, saved as a folder."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BatchEncoding,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from llambert.classifier.architecture import (
    InputFormat,
    complete_config,
    find_input_format,
    length_limit,
    load_tokenizer,
    num_embeddings,
    probe_texts,
    require_length,
    unsupported_model_reason,
)
from llambert.classifier.chip import FLOAT16_NEEDS_GPU
from llambert.classifier.loading import MODEL_ERRORS, loading, raise_passing
from llambert.classifier.weights import build_without_memory, require_all_layers, require_encoder_weights
from llambert.errors import InputError, UnfitModel, described, one_line, panics_as_errors
from llambert.recipe import ClassifierRecipe, LabelRecipe
from llambert.run import Run
from llambert.storage.model_folder import check_model_folder
from llambert.storage.reference import local_copy

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
FULL_CHECK_MAX_BYTES = 4 << 30  # of weights in float32: the driver's node may have little memory
_MAX_LENGTH_CHECK_COST = 2 * 10**11
"""Maximum product of parameters and tokens for the check at full length: a few seconds on one core."""


@dataclass(frozen=True)
class Encoder:
    """A model to train and the tokenizer that goes with it. ``max_length`` counts special tokens too."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    input_format: InputFormat

    def tokenize(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, truncated to ``max_length``, with the tokens that the model requires: never empty.

        ``InputError`` if the tokenizer panics on one.
        """
        ids: list[np.ndarray] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            try:
                encoded = self._encode(texts[start : start + _TEXTS_PER_CALL])
            except ValueError as error:
                reason = f"its tokenizer fails on one of {len(texts):,} texts to train on: {one_line(error)}"
                raise InputError(f"classifier.model: {reason}; choose another encoder") from error
            rows = (np.array(row, dtype=np.int32) for row in encoded["input_ids"])
            ids += [self.input_format.with_required_tokens(row, self.max_length) for row in rows]
        return ids

    @panics_as_errors()
    def _encode(self, texts: list[str]) -> BatchEncoding:
        return self.tokenizer(
            texts, truncation=True, max_length=self.max_length, return_attention_mask=False, return_token_type_ids=False
        )

    def save(self, folder: Path) -> None:
        """Write the Hugging Face folder: safetensors weights, configuration, tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.model_max_length = self.max_length
        self.tokenizer.save_pretrained(folder)


def require_encoder(run: Run) -> None:
    """``InputError`` if the recipe's encoder cannot be trained or cannot label; not checked once it is trained.

    Needs no Ray. Each process checks an encoder once. A dtype that the device decides is taken for float32 until it has
    (``execution.devices.with_label_dtype``).
    """
    if run.table("checkpoint").read_manifest() is None:
        label = run.recipe.labelling
        label = label.model_copy(update={"dtype": label.stated_dtype or "float32"})
        _check_encoder_once(run.recipe.classifier, tuple(run.task.category_names), label)


def check_encoder(recipe: ClassifierRecipe, categories: Sequence[str], label: LabelRecipe | None = None) -> None:
    """``InputError`` if an encoder cannot be trained or its checkpoint could not label; costs no annotation.

    The encoder is loaded as for training, run forward and backward on a few short texts, forward on one of the full
    length, and forward in the dtype of ``label``. Above 4 GiB of weights it is not loaded: only its configuration,
    tokenizer, layers and the names of its weights are checked.
    """
    with _quiet_loading():
        with _model_errors_as_input_errors(recipe):
            config, _ = _read_config_and_tokenizer(recipe, categories)
            built = _build_without_memory(recipe, config)
        num_parameters = sum(parameter.numel() for parameter in built.parameters())
        if num_parameters * torch.float32.itemsize <= FULL_CHECK_MAX_BYTES:
            encoder = load_encoder(recipe, categories)
            if num_parameters * encoder.max_length <= _MAX_LENGTH_CHECK_COST:
                try:
                    require_length(encoder.model, encoder.tokenizer, encoder.input_format, encoder.max_length)
                except UnfitModel as error:
                    raise InputError(f"classifier.max_length: {recipe.model}: {error}; lower it") from error
            if label is not None:
                _check_labelling(encoder, recipe, label)
        else:
            _check_stored_weights(recipe, built)


_check_encoder_once = lru_cache(check_encoder)


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars and report on the new head, which training prints when it loads the model."""
    verbosity, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()


def load_encoder(recipe: ClassifierRecipe, categories: Sequence[str]) -> Encoder:
    """The recipe's encoder with a head for ``categories``, new weights initialized with ``recipe.seed``.

    A tokenizer without a padding token pads with its end-of-text token, and is saved so. ``InputError`` if the encoder
    does not exist, cannot be trained, or is a classifier of other categories.
    """
    with _model_errors_as_input_errors(recipe):
        config, tokenizer = _read_config_and_tokenizer(recipe, categories)
        _build_without_memory(recipe, config)
        torch.manual_seed(recipe.seed)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            _location(recipe),
            trust_remote_code=recipe.trust_remote_code,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=None if recipe.pickled_weights else True,
            output_loading_info=True,
        )
        require_encoder_weights(model, sorted(report["missing_keys"]), [key for key, *_ in report["mismatched_keys"]])
        require_all_layers(model, report["missing_keys"], report["unexpected_keys"])
        _set_padding_token(model, tokenizer)
        if recipe.freeze_encoder:
            freeze_encoder(model)
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        max_length = length_limit(model, tokenizer, recipe.max_length)
        input_format = find_input_format(model.eval(), tokenizer)
        _check_trainable(model, tokenizer, input_format)
    return Encoder(model, tokenizer, max_length, input_format)


def _check_labelling(encoder: Encoder, recipe: ClassifierRecipe, label: LabelRecipe) -> None:
    """``InputError`` if encoder or device cannot compute in ``label.dtype``; converts ``encoder`` in place."""
    if label.stated_dtype == "float16" and label.gpus_per_actor == 0:
        raise InputError(FLOAT16_NEEDS_GPU)
    if label.stated_dtype == "bfloat16":
        try:
            find_input_format(encoder.model.bfloat16(), encoder.tokenizer)
        except UnfitModel as error:
            raise InputError(f"label.dtype: {recipe.model} cannot label in bfloat16: {error}") from error


@contextlib.contextmanager
def _model_errors_as_input_errors(recipe: ClassifierRecipe) -> Iterator[None]:
    """``InputError`` that names the recipe's encoder for whatever is wrong with it."""
    try:
        with loading(f"classifier.model: {recipe.model}", "classifier"):
            yield
    except InputError as error:
        if recipe.pickled_weights or not _lacks_safetensors(error.__cause__):
            raise
        raise InputError(f"{error}; classifier.pickled_weights: true takes pickled ones, if you trust them") from error


def _lacks_safetensors(error: BaseException | None) -> bool:
    """Whether weights are missing or pickled: transformers raises a plain ``OSError``, so its message is compared."""
    return isinstance(error, OSError) and "file named model.safetensors" in str(error)


def _location(recipe: ClassifierRecipe) -> str:
    return local_copy(recipe.model, recipe.revision, recipe.pickled_weights)


def _build_without_memory(recipe: ClassifierRecipe, config: PreTrainedConfig) -> PreTrainedModel:
    trusted = recipe.trust_remote_code
    return build_without_memory(
        lambda: AutoModelForSequenceClassification.from_config(config, trust_remote_code=trusted), _location(recipe)
    )


def _read_config_and_tokenizer(
    recipe: ClassifierRecipe, categories: Sequence[str]
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The configuration, with a head for ``categories``, and the tokenizer."""
    location = _location(recipe)
    if Path(location).is_file():
        raise UnfitModel("it is a file; name the folder that holds config.json, weights and tokenizer")
    check_model_folder(location, pickled=recipe.pickled_weights)
    config = AutoConfig.from_pretrained(location, trust_remote_code=recipe.trust_remote_code)
    if reason := unsupported_model_reason(config):
        raise UnfitModel(reason)
    _require_same_categories(config, categories, recipe.model)
    config.id2label = dict(enumerate(categories))
    config.label2id = {category: code for code, category in enumerate(categories)}
    config.problem_type = "single_label_classification"
    complete_config(config)
    if recipe.dropout is not None:
        for name in _DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, recipe.dropout)
    tokenizer = load_tokenizer(location, trust_remote_code=recipe.trust_remote_code)
    tokenizer.truncation_side = "right"  # the label stage reads long texts from the start, only as far as needed
    return config, tokenizer


def _set_padding_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give model and tokenizer a padding token; decoders such as GPT-2 and Llama have none."""
    config = model.config.get_text_config()
    if tokenizer.pad_token_id is None:
        ids = (config.pad_token_id, tokenizer.eos_token_id, config.eos_token_id)
        tokens = [tokenizer.convert_ids_to_tokens(token) for token in ids if isinstance(token, int)]
        if not tokens or tokens[0] is None:
            raise UnfitModel("its tokenizer has neither a padding token nor an end-of-text token to pad with; add one")
        tokenizer.pad_token = tokens[0]
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
        model.config.pad_token_id = tokenizer.pad_token_id


def _check_trainable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, input_format: InputFormat) -> None:
    """Run one forward and backward pass, and freeze weights that get no gradient.

    Distributed training would wait for the gradients of such weights (XLNet's mask embedding).
    """
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= (num_known := num_embeddings(model)):
        raise UnfitModel(f"its tokenizer has token {largest}, its model has embeddings for {num_known} tokens")
    try:
        inputs: Any = input_format.model_inputs(probe_texts(model, tokenizer, input_format))
        model(**inputs).logits.float().logsumexp(dim=-1).sum().backward()
    except MODEL_ERRORS as error:
        raise_passing(error)
        raise UnfitModel(f"{type(model).__name__} cannot be trained: {described(error)}") from error
    for parameter in model.parameters():
        parameter.requires_grad = parameter.requires_grad and parameter.grad is not None
    model.zero_grad(set_to_none=True)


def _check_stored_weights(recipe: ClassifierRecipe, built: PreTrainedModel) -> None:
    """Check the headers of the safetensors files of a model that is too large to load here."""
    if recipe.pickled_weights:
        return
    folder = Path(_location(recipe))
    names: set[str] = set()
    with _model_errors_as_input_errors(recipe):
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                names |= set(weights.keys())
        if not names:
            raise OSError(f"no file named model.safetensors in {folder}")
        prefix = f"{built.base_model_prefix}."
        own = {name for name in built.state_dict() if name.startswith(prefix)}
        missing = sorted(name for name in own if not {name, name.removeprefix(prefix)} & names)
        require_encoder_weights(built, missing, [])
        require_all_layers(built, missing, names)


def freeze_encoder(model: PreTrainedModel) -> None:
    """Train only the head and the pooler, if any, which is part of the head's task."""
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad = name.startswith("pooler.")


def _require_same_categories(config: PreTrainedConfig, categories: Sequence[str], reference: str) -> None:
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or []):
        return
    own = [str(name) for _, name in sorted((config.id2label or {}).items())]
    unnamed = all(name.startswith("LABEL_") for name in own)
    if len(own) == len(categories) if unnamed else own == list(categories):
        return
    raise InputError(
        f"classifier.model: {reference} is a classifier of {f'{len(own)} categories' if unnamed else ', '.join(own)}, "
        f"the task's categories are {', '.join(categories)}; name the encoder it was made from"
    )
