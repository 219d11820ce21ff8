"""The embedded engine: a causal language model through Hugging Face transformers, in the replica's process.

Tokens are time here. The keys and values of the tokens that all prompts share (template head, shots) are
computed once; each batch then holds only the rest of its prompts, padded on the left, of similar length.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GgufConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer
from transformers.utils.logging import disable_progress_bar

from llambert.annotation.prompts import RenderedPrompt
from llambert.classifier import onednn
from llambert.classifier.architecture import max_positions, require_bounded_tokenizer
from llambert.classifier.batching import pad
from llambert.classifier.loading import loading
from llambert.classifier.weights import build_without_memory, require_all_weights
from llambert.engines import Answer
from llambert.engines.answers import (
    TokenSampling,
    failed_answer,
    half_head_note,
    make_renderer,
    max_prompt_tokens,
    record_key,
    scored_answer,
)
from llambert.engines.float32_head import compute_head_in_float32
from llambert.engines.scoring import TokenSequence, answer_sequences
from llambert.errors import InputError, described, panics_as_errors
from llambert.passing_faults import PassingFault, is_device_fault, is_passing
from llambert.recipe import AnnotatorRecipe
from llambert.storage.model_folder import check_model_folder
from llambert.storage.reference import local_copy
from llambert.tasks import Task

# What can go wrong with one record: a text no tokenizer takes, a template that refuses it, memory, no finite answer.
_RECORD_FAULTS = (RuntimeError, ValueError, TypeError, IndexError, TemplateError)
# Texts that begin in every way a text can: what all their prompts share, any prompt is taken to share (and
# every prompt is checked).
_PROBES = ("a", "The", "I", "Z", "7", "(", '"', "-", "\n", " ", "é", "北", "")
# The expanded keys and values of the shared tokens are copied for each batch: with max_batch_tokens 1024 and
# SmolLM2-135M (46 KiB a token) eight times as many tokens are 370 MiB.
_MAX_CACHED_PER_BATCH_TOKEN = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Request:
    """One record on its way: its place in the answers, its text, its prompt, tokens it shares with all others."""

    index: int
    text: str
    prompt: RenderedPrompt
    num_shared: int

    @property
    def rest(self) -> list[int]:
        return self.prompt.token_ids[self.num_shared :]


class TransformersEngine:
    """``score``, ``choice`` and ``generate`` with a local causal language model.

    ``score``: the probability that the answer begins with a category's answer words (``engines.scoring`` says
    which strings those are), exact for words of several tokens; the response is the best category's first
    answer word. ``choice``: the same distribution restricted to the answer words; its maximum at temperature
    0, a draw from it raised to 1/temperature and normalised otherwise (top_k and top_p do not apply to whole
    words). ``generate``: free text; a completion also ends at the prompt's separator. In both other modes the head
    computes in float32, whatever ``dtype`` says (``engines.float32_head``).

    Draws are keyed by decoding.seed and the text, so an answer depends on neither batch nor order. No answer
    changes by more than float noise (1e-4) with its batch.
    """

    def __init__(self, annotator: AnnotatorRecipe, task: Task) -> None:
        self._annotator, self._task = annotator, task
        self.notes: list[str] = []
        torch.set_num_threads(max(1, int(annotator.cpus_per_replica)))
        self.model: Any  # PreTrainedModel; its generate() is decorated beyond what a type checker follows
        self.model, self.tokenizer = load_model(annotator)
        if annotator.scores_in_half_precision and (reason := compute_head_in_float32(self.model)):
            self.notes.append(half_head_note(annotator, reason))
        self._renderer = make_renderer(annotator, task, self.tokenizer)
        self.notes += self._renderer.notes
        self._sequences = answer_sequences(self.tokenizer, task) if annotator.mode != "generate" else None
        context = max_positions(self.model)
        self._max_prompt_tokens = max_prompt_tokens(annotator, self._renderer, self._sequences, context)
        self.shared_prefix = self._common_prefix()
        try:
            with torch.inference_mode():
                self._prefix_states = self._key_value_states(self.shared_prefix)
        except RuntimeError as error:
            kind = PassingFault if is_passing(error) else InputError
            raise kind(f"annotator.model: {annotator.model} cannot run here: {described(error)}") from error

    def annotate(self, texts: list[str]) -> list[Answer]:
        """One answer per text, in the order of ``texts``."""
        answers: dict[int, Answer] = {}
        requests = []
        for index, text in enumerate(texts):
            try:
                requests.append(self._request(index, text))
            except _RECORD_FAULTS as error:
                answers[index] = failed_answer(error)
        for batch in self._batches(requests):
            for request, answer in zip(batch, self._answer_batch(batch), strict=True):
                answers[request.index] = answer
        return [answers[index] for index in range(len(texts))]

    def close(self) -> None:
        """Give the model's memory back; the engine is of no use afterwards."""
        del self.model
        self._prefix_states = []
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # Prompts

    def _request(self, index: int, text: str) -> _Request:
        prompt = self._renderer.encode(text, self._max_prompt_tokens, self._annotator.truncation)
        num_shared = len(self.shared_prefix)
        shares = len(prompt.token_ids) > num_shared and prompt.token_ids[:num_shared] == self.shared_prefix
        return _Request(index, text, prompt, num_shared if shares else 0)

    def _common_prefix(self) -> list[int]:
        """The tokens every prompt begins with, one short of the shortest prompt seen."""
        probes = [self._renderer.encode(text, self._max_prompt_tokens).token_ids for text in _PROBES]
        columns = zip(*(ids[:-1] for ids in probes), strict=False)
        return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]

    def _batches(self, requests: list[_Request]) -> Iterator[list[_Request]]:
        """Prompts of similar length, at most max_batch_tokens with padding, or one prompt that is longer."""
        budget = self._annotator.max_batch_tokens
        batch: list[_Request] = []
        for request in sorted(requests, key=lambda r: (r.num_shared, len(r.rest))):
            size = len(batch) + 1
            fits = len(request.rest) * size <= budget
            cached = len(request.prompt.token_ids) * size <= budget * _MAX_CACHED_PER_BATCH_TOKEN
            if batch and not (fits and cached and request.num_shared == batch[0].num_shared):
                yield batch
                batch = []
            batch.append(request)
        if batch:
            yield batch

    # Answers

    def _answer_batch(self, batch: list[_Request]) -> list[Answer]:
        """The answers of a batch; where it fails as a whole, each record is tried alone."""
        answer: Callable[[list[_Request]], list[Answer]]
        answer = self._generate if self._annotator.mode == "generate" else self._score
        try:
            with panics_as_errors(), torch.inference_mode():
                return answer(batch)
        except _RECORD_FAULTS as error:
            if is_device_fault(error):
                raise  # no record's: the process ends, and another does the unit
            if len(batch) == 1:
                return [failed_answer(error, batch[0].prompt, is_transient=isinstance(error, torch.OutOfMemoryError))]
            logger.warning("a batch of %d prompts failed (%s); each is tried alone", len(batch), error)
        return [alone for request in batch for alone in self._answer_batch([request])]

    def _score(self, batch: list[_Request]) -> list[Answer]:
        assert self._sequences is not None
        probabilities = self._sequences.category_probabilities(self._sequence_log_probabilities(batch))
        return [
            scored_answer(self._annotator, self._task, request.text, request.prompt, row)
            for request, row in zip(batch, probabilities, strict=True)
        ]

    def _sequence_log_probabilities(self, batch: list[_Request]) -> np.ndarray:
        """Shape (records, sequences): log-probability of each answer sequence right after the prompt."""
        assert self._sequences is not None
        inputs = self._inputs(batch)
        output = self.model(**inputs, use_cache=True, logits_to_keep=1)
        after: dict[TokenSequence, torch.Tensor] = {(): output.logits[:, -1].float().log_softmax(-1)}
        mask, last = inputs["attention_mask"], inputs["position_ids"][:, -1:]
        for path in self._sequences.maximal_prefixes:
            step = torch.arange(1, len(path) + 1, device=last.device)
            logits = self.model(
                input_ids=torch.tensor([path] * len(batch), device=last.device),
                attention_mask=torch.cat([mask, mask.new_ones(len(batch), len(path))], dim=1),
                position_ids=last + step,
                past_key_values=output.past_key_values,
                use_cache=True,
            ).logits
            output.past_key_values.crop(-len(path))
            for num in range(1, len(path) + 1):
                after[path[:num]] = logits[:, num - 1].float().log_softmax(-1)
        sums = [
            torch.stack([after[sequence[:num]][:, token_id] for num, token_id in enumerate(sequence)]).double().sum(0)
            for sequence in self._sequences.sequences
        ]
        return torch.stack(sums, dim=1).cpu().numpy()

    def _generate(self, batch: list[_Request]) -> list[Answer]:
        inputs = self._inputs(batch)
        shared = self.shared_prefix[: batch[0].num_shared]
        ids = inputs.pop("input_ids")
        del inputs["position_ids"]  # generate() derives the same ones from the mask
        ids = torch.cat([ids.new_tensor(shared).expand(len(batch), -1), ids], dim=1)
        decoding, stop = self._annotator.decoding, self._renderer.stop
        sampling = TokenSampling.of(decoding)
        generated = self.model.generate(
            input_ids=ids,
            **inputs,
            max_new_tokens=decoding.max_new_tokens,
            do_sample=False,
            logits_processor=_sampling_processors(sampling, [request.text for request in batch], ids.shape[1]),
            pad_token_id=self._pad_id,
            **({"stop_strings": stop, "tokenizer": self.tokenizer} if stop else {}),
        )
        rows = generated[:, ids.shape[1] :].tolist()
        return [self._generated_answer(request, row) for request, row in zip(batch, rows, strict=True)]

    def _generated_answer(self, request: _Request, new_ids: list[int]) -> Answer:
        ends = self._end_ids
        num_tokens = next((i + 1 for i, token_id in enumerate(new_ids) if token_id in ends), len(new_ids))
        finished = num_tokens > 0 and new_ids[num_tokens - 1] in ends
        response = str(self.tokenizer.decode(new_ids[:num_tokens], skip_special_tokens=True))
        for stop in self._renderer.stop:
            if stop in response:
                response, finished = response.split(stop, 1)[0], True
        return Answer(
            prompt=request.prompt.text,
            response=self._renderer.open_thought + response,
            finish_reason="stop" if finished else "length",
            num_prompt_tokens=len(request.prompt.token_ids),
            num_response_tokens=num_tokens,
            num_truncated_tokens=request.prompt.num_truncated_tokens,
        )

    # The model's inputs

    @property
    def _end_ids(self) -> set[int]:
        stated = self.model.generation_config.eos_token_id
        ids = stated if isinstance(stated, list) else [stated]
        return {token_id for token_id in [*ids, self.tokenizer.eos_token_id] if token_id is not None}

    @property
    def _pad_id(self) -> int:
        """Any token will do: padding is masked."""
        return next((i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if i is not None), 0)

    def _inputs(self, batch: list[_Request]) -> dict[str, Any]:
        """What the model is called with: the rest of each prompt padded on the left, after the shared prefix."""
        num_shared = batch[0].num_shared
        ids, is_own = pad([np.array(request.rest) for request in batch], self._pad_id, "left")
        mask = torch.from_numpy(np.pad(is_own, ((0, 0), (num_shared, 0)), constant_values=True)).long()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, num_shared:]
        device = self.model.device
        return {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": mask.to(device),
            "position_ids": positions.to(device),
            "past_key_values": self._cache(len(batch), num_shared),
        }

    def _cache(self, num_records: int, num_shared: int) -> DynamicCache:
        """A cache for a batch that holds the shared states already, as views that are not copied."""
        cache = DynamicCache()
        for keys, values in self._prefix_states if num_shared else []:
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys = keys.expand(num_records, -1, -1, -1)
            layer.values = values.expand(num_records, -1, -1, -1)
            cache.layers.append(layer)
        return cache

    def _key_value_states(self, token_ids: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of a beginning, layer by layer, each of shape (1, heads, tokens, head size)."""
        if not token_ids:
            return []
        cache = DynamicCache()
        ids = torch.tensor([token_ids], device=self.model.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
        return [(layer.keys, layer.values) for layer in layers if layer.keys is not None and layer.values is not None]


def load_model(annotator: AnnotatorRecipe, reordered: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The recipe's model, ready for inference, and its tokenizer; ``InputError`` in one line if it cannot be had.

    A ``.gguf`` file is turned back into full weights. Other models load from safetensors alone: pickled weights
    and code that comes with a model are refused. ``reordered``: float32 weights on a CPU in oneDNN's layout, which
    is for inference alone and cannot be saved.
    """
    device = "cuda" if annotator.gpus_per_replica else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        reason = f"annotator.gpus_per_replica: {annotator.gpus_per_replica} asked for, torch finds no GPU here"
        raise PassingFault(reason)  # a node whose driver is broken: another may have one
    with loading(f"annotator.model: {annotator.model}", "annotator"):
        location = local_copy(annotator.model, annotator.revision)
        options: dict[str, Any] = {"dtype": getattr(torch, annotator.dtype)}
        source: dict[str, Any] = {"trust_remote_code": annotator.trust_remote_code}
        check_model_folder(location)
        num_bytes = (location, 1)
        if location.endswith(".gguf"):
            file = Path(location)
            location, source["gguf_file"] = str(file.parent), file.name
            options["quantization_config"] = GgufConfig(dequantize=True)
            num_bytes = (str(file), 8)  # a weight takes a bit at least
        else:
            options["use_safetensors"] = True
        disable_progress_bar()
        config = AutoConfig.from_pretrained(location, **source)
        trusted = annotator.trust_remote_code
        build_without_memory(lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=trusted), *num_bytes)
        with panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(location, **source)
            require_bounded_tokenizer(tokenizer)
        options |= {"config": config}  # reading that of a GGUF file takes seconds
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location, **source, **options, ignore_mismatched_sizes=True, output_loading_info=True
        )
        model, report = loaded
        require_all_weights(model, report)
        model.to(device).eval()
    if reordered and device == "cpu" and annotator.dtype == "float32" and onednn.available():
        onednn.reorder_linear_layers(
            model
        )  # twice the rate: 39 instead of 20 records/s on the reviews, to 5e-6 the same
    return model, tokenizer


class _KeyedGumbelNoise(LogitsProcessor):
    """Gumbel noise keyed by seed, text and step: the maximum of log-probabilities with it is a draw from them."""

    def __init__(self, seed: int, texts: list[str], num_prompt_tokens: int) -> None:
        self._keys = [record_key(seed, text) for text in texts]
        self._num_prompt_tokens = num_prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self._num_prompt_tokens
        noise = np.stack([np.random.default_rng([key, step]).gumbel(size=scores.shape[1]) for key in self._keys])
        return scores + torch.from_numpy(noise).to(scores)


def _sampling_processors(sampling: TokenSampling, texts: list[str], num_prompt_tokens: int) -> LogitsProcessorList:
    """Temperature, top-k and top-p as everywhere, then the draw; nothing at temperature 0."""
    if sampling.temperature == 0:
        return LogitsProcessorList()
    processors: list[LogitsProcessor] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*processors, _KeyedGumbelNoise(sampling.seed, texts, num_prompt_tokens)])
