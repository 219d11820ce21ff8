"""What an encoder's architecture asks of its input, found by trying it: no configuration states it.

Families differ in where they may be padded, in whether a text without a mask is read as one, in the token at which
they read their answer, and in how many positions they have. A list of their names would never be complete.
"""

import contextlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from llambert.classifier.batching import pad
from llambert.errors import InputError, UnfitModel, described

NO_TOKEN = -1
"""An id that no token has."""

FLOAT16_NEEDS_GPU = "label.dtype: float16 needs a GPU; on a CPU use float32, or bfloat16 where the chip has it"

_UNLIMITED_LENGTH = 1_000_000  # a tokenizer that knows no limit names one above this
_DEFAULT_LENGTH = 4096
# Tokens of the texts that are tried. Several, since a single text may lie where a model answers the same to anything.
_PROBE_LENGTHS = (5, 3, 4, 7, 9, 11)
_TOLERANCE, _REDUCED_TOLERANCE = 1e-4, 0.3  # of float32; of bfloat16 and float16, in which small logits are noise
MODEL_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError)
"""What a model raises on input that is not for it."""

LOADING_ERRORS = (*MODEL_ERRORS, OSError, ImportError, NameError, SyntaxError, SafetensorError, StrictDataclassError)
"""What transformers raises on a folder, or a model's own code, that it cannot load."""


@dataclass(frozen=True)
class InputFormat:
    """How token ids become the arguments of one model, so that it answers as it would for each text alone.

    ``padding_side`` None: padding changes the answer wherever it is, so a batch holds texts of one length.
    ``end_id``: the token at which the model reads its answer; the texts of a batch must hold it equally often.
    ``token_types``: those of the special tokens before a text, of the text, and of those after it; None where the
    model needs none. ``omits_mask``: a batch without padding needs no mask.
    """

    padding_id: int
    padding_side: Literal["right", "left"] | None = "right"
    end_id: int | None = None
    token_types: tuple[tuple[int, ...], int, tuple[int, ...]] | None = None
    takes_mask: bool = True
    omits_mask: bool = False

    def completed(self, ids: np.ndarray, max_length: int) -> np.ndarray:
        """``ids`` as the model can read them: with at least one token, and with its ``end_id``."""
        if self.end_id is not None and self.end_id not in ids:
            return np.append(ids[: max_length - 1], self.end_id).astype(ids.dtype)
        return ids if len(ids) else np.array([self.padding_id], dtype=ids.dtype)

    def groups(self, ids: Sequence[np.ndarray]) -> np.ndarray:
        """A number for each text, int64 (texts,): those with one number may be in one batch."""
        if self.padding_side is None:
            return np.array([len(row) for row in ids], dtype=np.int64)
        if self.end_id is not None:
            return np.array([np.count_nonzero(row == self.end_id) for row in ids], dtype=np.int64)
        return np.zeros(len(ids), dtype=np.int64)

    def arguments(self, ids: Sequence[np.ndarray]) -> dict[str, torch.Tensor | None]:
        """The model's arguments for texts of one group: int64 of shape (texts, longest).

        The mask is made of the texts' lengths: a padding token inside a text is a token of it. Positions are left
        to the model: families that count theirs from the ids count those of each text alone.
        """
        input_ids, mask = pad(ids, self.padding_id, self.padding_side or "right")
        arguments: dict[str, torch.Tensor | None] = {"input_ids": torch.from_numpy(input_ids)}
        if self.takes_mask:
            omitted = self.omits_mask and bool(mask.all())
            arguments["attention_mask"] = None if omitted else torch.from_numpy(mask.astype(np.int64))
        if self.token_types is not None:
            types = [_types_of(self.token_types, len(row)) for row in ids]
            arguments["token_type_ids"] = torch.from_numpy(pad(types, 0, self.padding_side or "right")[0])
        return arguments


def find_input_format(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> InputFormat:
    """How ``model``, in evaluation mode, wants its input; a dozen passes over a few tokens.

    ``UnfitModel`` where it fails on any text, or answers with what is no number.
    """
    tried = _InputProbe(model, tokenizer)
    found = tried.with_end(InputFormat(tried.padding_id, takes_mask=tried.takes("attention_mask")))
    found = tried.with_token_types(found)
    found = tried.with_padding(found)
    return tried.without_mask(found)


def require_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, form: InputFormat, length: int) -> None:
    """``UnfitModel`` where ``model`` fails on a text of ``length`` tokens, or answers with what is no number."""
    trial = _InputProbe(model, tokenizer)
    try:
        is_finite = bool(trial.answer(form, [trial.text(length)]).isfinite().all())
        reason = None if is_finite else "its answer is no finite number"
    except MODEL_ERRORS as error:
        reason = described(error)
    if reason:
        raise UnfitModel(f"{type(model).__name__} fails on a text of {length} tokens: {reason}")


def probe_texts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, form: InputFormat) -> list[np.ndarray]:
    """Token ids of a few texts of different lengths that may be in one batch."""
    texts = _InputProbe(model, tokenizer).texts
    return [form.completed(ids, len(ids)) for ids in texts] if form.padding_side else texts[:1] * 2


def logits_match(model: PreTrainedModel, found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two answers (logits) of ``model`` differ by the rounding of its type alone."""
    is_reduced = next(model.parameters()).dtype != torch.float32
    return _difference(found, expected) <= (_REDUCED_TOLERANCE if is_reduced else _TOLERANCE)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest between two answers, as a share of the largest logit."""
    return float((found - expected).abs().max() / (expected.abs().max() + 1e-6))


def length_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, wanted: int | None = None) -> int:
    """Tokens of a text, special ones included: as many as model and tokenizer take, ``wanted`` at most.

    4,096 where there is no limit at all. ``InputError``: so few that there is no room for a text.
    """
    stated = tokenizer.model_max_length
    is_limit = isinstance(stated, int | float) and 0 < stated < _UNLIMITED_LENGTH  # -1 and null stand for "none"
    limits = [wanted, int(stated) if is_limit else None, max_positions(model)]
    limit = min((one for one in limits if one), default=_DEFAULT_LENGTH)
    if limit <= (num_special := tokenizer.num_special_tokens_to_add()):
        setting = "classifier.max_length" if wanted is not None else "model_max_length in its tokenizer_config.json"
        raise InputError(
            f"{setting}: {limit} leaves no room for a text beside the {num_special} special tokens of each"
        )
    return limit


def max_positions(model: PreTrainedModel) -> int | None:
    """Tokens of a text that the model has positions for; None: no limit (relative positions, as T5's and XLNet's)."""
    embeddings = getattr(model.base_model, "embeddings", None)
    weight = getattr(getattr(embeddings, "position_embeddings", None), "weight", None)
    if isinstance(weight, torch.Tensor):
        padding_index = position_padding_index(model)
        num = weight.shape[0] - (0 if padding_index is None else padding_index + 1)
        numbers = getattr(embeddings, "position_ids", None)  # some families have more embeddings than positions
        return min(num, numbers.shape[-1]) if isinstance(numbers, torch.Tensor) else num
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return stated if isinstance(stated, int) and stated > 0 else None


def position_padding_index(model: PreTrainedModel) -> int | None:
    """The padding id of a model that counts positions from its ids, as RoBERTa does; None: they are 0, 1, 2, …

    It may be -1: no token has it. PyTorch makes the last row of it, the embeddings as a whole keep it.
    """
    embeddings = getattr(model.base_model, "embeddings", None)
    index = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return None if index is None else getattr(embeddings, "padding_idx", index)


def num_embeddings(model: PreTrainedModel) -> int:
    """Tokens that the model knows."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def has_vocabulary(tokenizer: PreTrainedTokenizerBase) -> bool:
    """False where transformers made up a tokenizer of special tokens alone, since the folder holds none."""
    return len(tokenizer.get_vocab()) > len(tokenizer.all_special_tokens)


def unsupported_model_reason(config: PreTrainedConfig) -> str | None:
    """Why no model of this configuration's type classifies texts; None: one does."""
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or "AutoModelForSequenceClassification" in own_code:
        return None
    return f"transformers has no classifier of texts of model type {config.model_type!r}; name an encoder of texts"


def complete_config(config: PreTrainedConfig) -> None:
    """Set what a configuration leaves open or to chance, before the model is built.

    Full attention for BigBird: its sparse one depends on padding, and a short text switches it off for good. A first
    token for the decoder of a T5 whose configuration names none: the padding token, as in T5's own.
    """
    if getattr(config, "attention_type", None) == "block_sparse":
        config.attention_type = "original_full"
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id


def cast_parameters(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """All weights in ``dtype``: transformers leaves XLNet's in float32. Those it keeps so on purpose (T5's) stay."""
    if not (model._keep_in_fp32_modules or model._keep_in_fp32_modules_strict):
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)


def allow_missing_padding_token(model: PreTrainedModel) -> None:
    """Let a decoder without a padding token answer at the last token of each text, whichever that is.

    transformers refuses batches of such a model, since it takes the last token that is no padding.
    """
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = NO_TOKEN


class _InputProbe:
    """A few texts of random tokens, and what a model says of them."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        config = model.config.get_text_config()
        given = [config.pad_token_id, tokenizer.pad_token_id]
        num_tokens = num_embeddings(model)
        usable = [number for number in given if isinstance(number, int) and 0 <= number < num_tokens]
        self.padding_id, self.end_id = next(iter(usable), 0), config.eos_token_id
        limit = max_positions(model) or max(_PROBE_LENGTHS)
        special = {*tokenizer.all_special_ids, self.padding_id, self.end_id}
        ordinary = [number for number in range(min(num_tokens, 1000 + len(special))) if number not in special]
        self._ordinary, self._random = ordinary or [0], np.random.default_rng(0)
        self.texts = [self.text(max(2, min(length, limit - 2))) for length in _PROBE_LENGTHS]

    def text(self, length: int) -> np.ndarray:
        """Random tokens, none of them special."""
        return self._random.choice(self._ordinary, length).astype(np.int64)

    def takes(self, argument: str) -> bool:
        return argument in inspect.signature(self.model.forward).parameters

    def answer(self, form: InputFormat, texts: Sequence[np.ndarray], with_mask: bool = True) -> torch.Tensor:
        """Logits of each text, float32 (texts, outputs)."""
        given: dict[str, Any] = form.arguments([form.completed(ids, len(ids)) for ids in texts])
        if not with_mask:
            del given["attention_mask"]
        device = next(self.model.parameters()).device
        with torch.no_grad():
            on_device = {name: value if value is None else value.to(device) for name, value in given.items()}
            return self.model(**on_device).logits.float()

    def with_end(self, form: InputFormat) -> InputFormat:
        """With the ``end_id`` of a model that cannot read a text without: BART and T5 answer at that token."""
        try:
            self.answer(form, self.texts[:1])
            return form
        except MODEL_ERRORS as error:
            fault = error
        if self.model.config.is_encoder_decoder and isinstance(self.end_id, int):
            form = replace(form, end_id=self.end_id)
            try:
                self.answer(form, self.texts[:1])
                return form
            except MODEL_ERRORS as error:
                fault = error
        raise UnfitModel(f"{type(self.model).__name__} fails on any text: {described(fault)}") from fault

    def with_token_types(self, form: InputFormat) -> InputFormat:
        """With the tokenizer's token types, where it makes some and the model answers otherwise without (XLNet)."""
        if "token_type_ids" not in self.tokenizer.model_input_names or not self.takes("token_type_ids"):
            return form
        typed = replace(form, token_types=_token_types(self.tokenizer))
        # Exactly: what a family makes of absent types is what it makes of those, or something else.
        same = torch.equal(self.answer(form, self.texts[:1]), self.answer(typed, self.texts[:1]))
        return form if same else typed

    def with_padding(self, form: InputFormat) -> InputFormat:
        """Padded on the side where that leaves the answer alone; on the right if both do."""
        alone = torch.cat([self.answer(form, [text]) for text in self.texts[:-1]])
        if not alone.isfinite().all():
            raise UnfitModel(f"{type(self.model).__name__} answers with what is no finite number")
        found: list[tuple[float, InputFormat]] = []
        sides: tuple[Literal["right", "left"], ...] = ("right", "left")
        for side in sides if form.takes_mask else ():
            padded = replace(form, padding_side=side)
            with contextlib.suppress(*MODEL_ERRORS):
                answer = self.answer(padded, self.texts)[:-1]
                if logits_match(self.model, answer, alone):
                    found.append((round(_difference(answer, alone), 2), padded))
        return min(found, key=lambda one: one[0])[1] if found else replace(form, padding_side=None)

    def without_mask(self, form: InputFormat) -> InputFormat:
        """Without a mask where none is needed, unless the model then takes padding tokens of a text for padding."""
        if not form.takes_mask:
            return form
        text = self.texts[-1].copy()
        text[[1, -1]] = form.padding_id
        try:
            masked, bare = (self.answer(form, [text], with_mask=mask) for mask in (True, False))
        except MODEL_ERRORS:
            return form
        return replace(form, omits_mask=_difference(bare, masked) <= _TOLERANCE)


def _token_types(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """The types that ``tokenizer`` gives the special tokens before a text, the text, and those after it."""
    encoded = tokenizer("a", return_token_type_ids=True, return_special_tokens_mask=True)
    types, special = encoded["token_type_ids"], encoded["special_tokens_mask"]
    text = [position for position, is_special in enumerate(special) if not is_special] or [0]
    return tuple(types[: text[0]]), types[text[0]], tuple(types[text[-1] + 1 :])


def _types_of(token_types: tuple[tuple[int, ...], int, tuple[int, ...]], length: int) -> np.ndarray:
    before, inside, after = token_types
    types = [*before, *[inside] * max(0, length - len(before) - len(after)), *after]
    return np.array(types[:length], dtype=np.int64)
