"""What input an encoder needs, detected by running it on a few texts: no configuration states it.

Families differ in the side on which they may be padded, in whether they need an attention mask, in the token whose
hidden state the head reads, and in their number of positions. A list of families would never be complete.
"""

import hashlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from llambert.classifier import tokenizer_probe
from llambert.classifier.batching import pad
from llambert.classifier.loading import MODEL_ERRORS, raise_passing
from llambert.errors import InputError, UnfitModel, described, panics_as_errors
from llambert.printable import shortened

NO_TOKEN = -1
"""A token ID that no token has."""

_bounded_tokenizers: set[bytes] = set()  # hashes of those that this process has probed
_PROBE_TIMEOUT_S = 120  # it may take 10 s of CPU time, on a machine that is busy
_UNLIMITED_LENGTH = 1_000_000  # a tokenizer without a limit states one above this
_DEFAULT_LENGTH = 4096
# Lengths of the probe texts. Several, since a model may give the same answer to any input of one length.
_PROBE_LENGTHS = (5, 3, 4, 7, 9, 11)
_TOLERANCE, _REDUCED_TOLERANCE = 1e-4, 0.3  # of float32; of bfloat16 and float16, in which small logits are noise


@dataclass(frozen=True)
class InputFormat:
    """How token ids become the inputs of one model, so that batching does not change its answers.

    ``padding_side`` None: padding on either side changes the answer, so a batch holds texts of one length.
    ``end_id``: the token whose hidden state the head reads; all texts of a batch must contain it equally often.
    ``token_types``: those of the special tokens before a text, of the text, and of those after it; None where the
    model needs none. ``omits_mask``: a batch without padding needs no mask.
    """

    padding_id: int
    padding_side: Literal["right", "left"] | None = "right"
    end_id: int | None = None
    token_types: tuple[tuple[int, ...], int, tuple[int, ...]] | None = None
    takes_mask: bool = True
    omits_mask: bool = False

    def with_required_tokens(self, ids: np.ndarray, max_length: int) -> np.ndarray:
        """``ids`` with at least one token, and with the ``end_id``."""
        if self.end_id is not None and self.end_id not in ids:
            return np.append(ids[: max_length - 1], self.end_id).astype(ids.dtype)
        return ids if len(ids) else np.array([self.padding_id], dtype=ids.dtype)

    def batch_groups(self, ids: Sequence[np.ndarray]) -> np.ndarray:
        """A group number for each text, int64 (texts,): a batch may hold texts of one group only."""
        if self.padding_side is None:
            return np.array([len(row) for row in ids], dtype=np.int64)
        if self.end_id is not None:
            return np.array([np.count_nonzero(row == self.end_id) for row in ids], dtype=np.int64)
        return np.zeros(len(ids), dtype=np.int64)

    def model_inputs(self, ids: Sequence[np.ndarray]) -> dict[str, torch.Tensor | None]:
        """The model's keyword arguments for texts of one group: int64 of shape (texts, longest).

        The mask follows the texts' lengths: a padding token inside a text is not masked. The model computes the
        positions: families that derive them from the ids do so for each text separately.
        """
        input_ids, mask = pad(ids, self.padding_id, self.padding_side or "right")
        inputs: dict[str, torch.Tensor | None] = {"input_ids": torch.from_numpy(input_ids)}
        if self.takes_mask:
            omitted = self.omits_mask and bool(mask.all())
            inputs["attention_mask"] = None if omitted else torch.from_numpy(mask.astype(np.int64))
        if self.token_types is not None:
            types = [_types_of(self.token_types, len(row)) for row in ids]
            inputs["token_type_ids"] = torch.from_numpy(pad(types, 0, self.padding_side or "right")[0])
        return inputs


def find_input_format(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> InputFormat:
    """The input format of ``model``, which is in evaluation mode; takes a dozen passes over a few tokens.

    ``UnfitModel`` if it fails on every text or its logits are not finite.
    """
    probe = _InputProbe(model, tokenizer)
    found = probe.with_end(InputFormat(probe.padding_id, takes_mask=probe.takes("attention_mask")))
    found = probe.with_token_types(found)
    found = probe.with_padding(found)
    return probe.without_mask(found)


def require_length(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, input_format: InputFormat, length: int
) -> None:
    """``UnfitModel`` if ``model`` fails on a text of ``length`` tokens or its logits are not finite."""
    probe = _InputProbe(model, tokenizer)
    try:
        is_finite = bool(probe.answer(input_format, [probe.text(length)]).isfinite().all())
        reason = None if is_finite else "its logits are not finite"
    except MODEL_ERRORS as error:
        raise_passing(error)
        reason = described(error)
    if reason:
        raise UnfitModel(f"{type(model).__name__} fails on a text of {length} tokens: {reason}")


def probe_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, input_format: InputFormat
) -> list[np.ndarray]:
    """Token ids of a few texts of different lengths that may be in one batch."""
    texts = _InputProbe(model, tokenizer).texts
    if input_format.padding_side is None:
        return texts[:1] * 2
    return [input_format.with_required_tokens(ids, len(ids)) for ids in texts]


def logits_match(model: PreTrainedModel, found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors of logits of ``model`` differ by rounding errors of its dtype only."""
    is_reduced = next(model.parameters()).dtype != torch.float32
    return _difference(found, expected) <= (_REDUCED_TOLERANCE if is_reduced else _TOLERANCE)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference of two tensors of logits, relative to the largest logit."""
    return float((found - expected).abs().max() / (expected.abs().max() + 1e-6))


def length_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, wanted: int | None = None) -> int:
    """Maximum number of tokens of a text, special ones included: that of model and tokenizer, at most ``wanted``.

    4,096 if none of them has a limit. ``InputError`` if the special tokens leave no room for a text.
    """
    stated = tokenizer.model_max_length
    is_limit = isinstance(stated, int | float) and 0 < stated < _UNLIMITED_LENGTH  # -1 and null stand for "none"
    limits = [wanted, int(stated) if is_limit else None, max_positions(model)]
    limit = min((limit for limit in limits if limit), default=_DEFAULT_LENGTH)
    if limit <= (num_special := tokenizer.num_special_tokens_to_add()):
        setting = "classifier.max_length" if wanted is not None else "model_max_length in its tokenizer_config.json"
        raise InputError(
            f"{setting}: {limit} leaves no room for a text beside the {num_special} special tokens of each"
        )
    return limit


def max_positions(model: PreTrainedModel) -> int | None:
    """Number of token positions of the model; None: unlimited (relative positions, as in T5 and XLNet)."""
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
    """The padding id of a model that derives positions from its ids, as RoBERTa does; None: they are 0, 1, 2, …

    It may be -1, which no token has: PyTorch resolves that to the last row, so it is read from the embeddings module.
    """
    embeddings = getattr(model.base_model, "embeddings", None)
    index = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return None if index is None else getattr(embeddings, "padding_idx", index)


def num_embeddings(model: PreTrainedModel) -> int:
    """Number of tokens that the model has embeddings for."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


@panics_as_errors()
def load_tokenizer(location: str, **options: Any) -> Any:
    """The fast tokenizer of a model's folder or hub name; ``UnfitModel`` if there is none."""
    tokenizer = AutoTokenizer.from_pretrained(location, **options)
    if not tokenizer.is_fast:
        raise UnfitModel("its tokenizer has no fast (Rust) form, which llambert needs")
    # Without a vocabulary transformers makes a tokenizer of special tokens only.
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise UnfitModel("its tokenizer knows no token; is tokenizer.json (or a vocabulary) missing?")
    require_bounded_tokenizer(tokenizer)
    return tokenizer


def require_bounded_tokenizer(tokenizer: Any) -> None:
    """``UnfitModel`` if the regular expressions or chat templates of ``tokenizer`` are unbounded in time or memory.

    They run on a few texts in a process of their own (``tokenizer_probe``); those without either are not tried.
    """
    if not tokenizer.is_fast:
        return
    templates = tokenizer.chat_template or {}
    definition = tokenizer.backend_tokenizer.to_str()
    if not templates and '"Regex"' not in definition:
        return
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    sources = list(templates.values()) if isinstance(templates, dict) else [templates]
    question = json.dumps({"tokenizer": definition, "templates": sources, "tokens": tokens})
    digest = hashlib.sha256(question.encode("utf-8", "surrogatepass")).digest()
    if digest in _bounded_tokenizers:  # a model is loaded up to three times to check and speed it up
        return
    environment = os.environ | {"RUST_BACKTRACE": "0", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-P", tokenizer_probe.__file__]
    try:
        subprocess.run(
            command,
            input=question,
            env=environment,
            capture_output=True,
            check=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise UnfitModel(f"its tokenizer or chat template gives no answer within {_PROBE_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        if error.returncode < 0:
            raise UnfitModel("its tokenizer or chat template gives no answer within 10 s of CPU time") from error
        reason = shortened((error.stderr.strip().splitlines() or ["no answer"])[-1], 200)
        is_said = reason.startswith("its chat template ")
        raise UnfitModel(reason if is_said else f"its tokenizer fails on plain texts: {reason}") from error
    _bounded_tokenizers.add(digest)


def unsupported_model_reason(config: PreTrainedConfig) -> str | None:
    """Why this type of model cannot classify texts; None if it can."""
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or "AutoModelForSequenceClassification" in own_code:
        return None
    return f"transformers has no classifier of texts of model type {config.model_type!r}; name an encoder of texts"


def complete_config(config: PreTrainedConfig) -> None:
    """Set options that a configuration leaves undefined, before the model is built.

    Full attention for BigBird: sparse attention depends on padding, and a short text switches it off permanently. A
    decoder start token for a T5 without one: the padding token, as in the original T5.
    """
    if getattr(config, "attention_type", None) == "block_sparse":
        config.attention_type = "original_full"
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id


def cast_parameters(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast all weights to ``dtype``, which transformers omits for XLNet. Models it keeps in float32 (T5) are left."""
    if not (model._keep_in_fp32_modules or model._keep_in_fp32_modules_strict):
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)


def allow_missing_padding_token(model: PreTrainedModel) -> None:
    """Make a decoder without a padding token classify by the last token of each text.

    transformers looks for the last token that is not padding, and rejects batches if there is no padding token.
    """
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = NO_TOKEN


class _InputProbe:
    """A few texts of random tokens, and a model's logits for them."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        config = model.config.get_text_config()
        num_tokens = num_embeddings(model)
        padding_ids = [config.pad_token_id, tokenizer.pad_token_id]
        valid_ids = [token for token in padding_ids if isinstance(token, int) and 0 <= token < num_tokens]
        self.padding_id, self.end_id = next(iter(valid_ids), 0), config.eos_token_id
        limit = max_positions(model) or max(_PROBE_LENGTHS)
        special = {*tokenizer.all_special_ids, self.padding_id, self.end_id}
        ordinary = [token for token in range(min(num_tokens, 1000 + len(special))) if token not in special]
        self._ordinary, self._random = ordinary or [0], np.random.default_rng(0)
        self.texts = [self.text(max(2, min(length, limit - 2))) for length in _PROBE_LENGTHS]

    def text(self, length: int) -> np.ndarray:
        """Random tokens without special ones."""
        return self._random.choice(self._ordinary, length).astype(np.int64)

    def takes(self, argument: str) -> bool:
        return argument in inspect.signature(self.model.forward).parameters

    def answer(self, input_format: InputFormat, texts: Sequence[np.ndarray], with_mask: bool = True) -> torch.Tensor:
        """Logits of each text, float32 (texts, outputs)."""
        ids = [input_format.with_required_tokens(text, len(text)) for text in texts]
        inputs: dict[str, Any] = input_format.model_inputs(ids)
        if not with_mask:
            del inputs["attention_mask"]
        device = next(self.model.parameters()).device
        with torch.no_grad():
            on_device = {name: value if value is None else value.to(device) for name, value in inputs.items()}
            return self.model(**on_device).logits.float()

    def with_end(self, input_format: InputFormat) -> InputFormat:
        """With the ``end_id`` if the model fails on a text without one: BART and T5 classify by that token."""
        candidates = [input_format]
        if self.model.config.is_encoder_decoder and isinstance(self.end_id, int):
            candidates.append(replace(input_format, end_id=self.end_id))
        for candidate in candidates:
            try:
                self.answer(candidate, self.texts[:1])
                return candidate
            except MODEL_ERRORS as error:
                raise_passing(error)
                cause = error
        raise UnfitModel(f"{type(self.model).__name__} fails on any text: {described(cause)}") from cause

    def with_token_types(self, input_format: InputFormat) -> InputFormat:
        """With the tokenizer's token types, if it has any and omitting them changes the answer (XLNet)."""
        if "token_type_ids" not in self.tokenizer.model_input_names or not self.takes("token_type_ids"):
            return input_format
        typed = replace(input_format, token_types=_token_types(self.tokenizer))
        # Compared exactly: a family's default for missing types is either the same or different.
        same = torch.equal(self.answer(input_format, self.texts[:1]), self.answer(typed, self.texts[:1]))
        return input_format if same else typed

    def with_padding(self, input_format: InputFormat) -> InputFormat:
        """Padded on the side that does not change the answer; on the right if neither does."""
        unpadded = torch.cat([self.answer(input_format, [text]) for text in self.texts[:-1]])
        if not unpadded.isfinite().all():
            raise UnfitModel(f"{type(self.model).__name__} returns logits that are not finite")
        found: list[tuple[float, InputFormat]] = []
        sides: tuple[Literal["right", "left"], ...] = ("right", "left")
        for side in sides if input_format.takes_mask else ():
            padded = replace(input_format, padding_side=side)
            try:
                answer = self.answer(padded, self.texts)[:-1]
                if logits_match(self.model, answer, unpadded):
                    found.append((round(_difference(answer, unpadded), 2), padded))
            except MODEL_ERRORS as error:
                raise_passing(error)
        return min(found, key=lambda candidate: candidate[0])[1] if found else replace(input_format, padding_side=None)

    def without_mask(self, input_format: InputFormat) -> InputFormat:
        """Without a mask where none is needed, unless the model then ignores padding tokens inside a text."""
        if not input_format.takes_mask:
            return input_format
        text = self.texts[-1].copy()
        text[[1, -1]] = input_format.padding_id
        try:
            masked, unmasked = (self.answer(input_format, [text], with_mask=mask) for mask in (True, False))
        except MODEL_ERRORS as error:
            raise_passing(error)
            return input_format
        return replace(input_format, omits_mask=_difference(unmasked, masked) <= _TOLERANCE)


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
