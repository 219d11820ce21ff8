"""The production engine: vLLM, its scheduler fed from the replica's process, the model in separate processes."""

import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer
from vllm import RequestOutput, SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS, RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from llambert.annotation.prompts import RenderedPrompt
from llambert.classifier.architecture import require_bounded_tokenizer
from llambert.classifier.loading import loading
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
from llambert.engines.scoring import TokenSequence, answer_sequences
from llambert.engines.vllm.start import engine_args, last_error, model_location, new_log, start_engine
from llambert.errors import InputError, described, panics_as_errors
from llambert.recipe import AnnotatorRecipe
from llambert.tasks import Task

# What can go wrong with one record: a text no tokenizer takes, a template that refuses it.
_RECORD_FAULTS = (ValueError, TypeError, IndexError, TemplateError)
# After this number of crashes over the same records, they are asked about one at a time, to find the cause.
_DEATHS_BEFORE_ALONE = 2

logger = logging.getLogger(__name__)


@dataclass
class _PendingRecord:
    """One record that the engine works on: what came back so far, by the tokens that followed its prompt."""

    index: int
    text: str
    prompt: RenderedPrompt
    num_requests: int
    outputs: dict[TokenSequence, RequestOutput] = field(default_factory=dict)


class VllmEngine:
    """``score``, ``choice`` and ``generate`` with vLLM.

    ``score``: the probability that the answer begins with a category's answer words, exact for words of
    several tokens: one request after the prompt, and one after each beginning of such a word, each a prefill
    that ends in one token and the log-probabilities of the tokens asked about (``logprob_token_ids``; the
    prompt's blocks come from the prefix cache). ``choice``: that distribution restricted to the answer words,
    as in ``TransformersEngine``: no decoding that could go past a constraint takes place. ``generate``: free
    text, drawn with a seed of the record's own.

    An engine that dies is started again and asked about what it had not answered; a record that it dies on
    alone is given up. ``RuntimeError`` where ``annotator.max_attempts`` records in a row end so.
    """

    def __init__(self, annotator: AnnotatorRecipe, task: Task) -> None:
        self._annotator, self._task = annotator, task
        self.notes: list[str] = []
        location = model_location(annotator)
        self._args = engine_args(annotator, location)
        with loading(f"annotator.model: {annotator.model}", "annotator"), panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=annotator.trust_remote_code)
            require_bounded_tokenizer(tokenizer)
        self._renderer = make_renderer(annotator, task, tokenizer)
        self.notes += self._renderer.notes
        self._sequences = answer_sequences(tokenizer, task) if annotator.mode != "generate" else None
        self._next_tokens = _next_tokens(self._sequences.sequences) if self._sequences else {}
        self._request_ids = itertools.count()
        self.num_restarts = 0  # of the engine's process, after deaths
        self._log = new_log()
        self._engine = start_engine(annotator, self._args, self._log)
        try:
            config = self._engine.model_config
            if annotator.scores_in_half_precision and config.head_dtype != torch.float32:
                self.notes.append(half_head_note(annotator, f"its head computes in {config.head_dtype}"))
            context = config.max_model_len
            self._max_prompt_tokens = max_prompt_tokens(annotator, self._renderer, self._sequences, context)
        except InputError:
            self.close()
            raise

    def annotate(self, texts: list[str]) -> list[Answer]:
        """One answer per text, in the order of ``texts``."""
        answers: dict[int, Answer] = {}
        num_deaths = num_consecutive_failures = 0
        while unanswered := [index for index in range(len(texts)) if index not in answers]:
            alone = num_deaths >= _DEATHS_BEFORE_ALONE
            try:
                self._ask(unanswered[:1] if alone else unanswered, texts, answers)
                num_consecutive_failures = 0
            except EngineDeadError as error:
                num_deaths += 1
                logger.warning("vLLM died with %d records unanswered: %s", len(unanswered), described(error))
                if alone:
                    answers[unanswered[0]] = failed_answer(error)
                    num_deaths, num_consecutive_failures = 0, num_consecutive_failures + 1
                if num_consecutive_failures >= self._annotator.max_attempts:
                    reason = f"{last_error(self._log)} (all of it: {self._log})"
                    raise RuntimeError(f"vLLM dies on every record: {reason}") from error
                self._restart()
        return [answers[index] for index in range(len(texts))]

    def close(self) -> None:
        """Give the model's memory back: the engine's processes end. It is of no use afterwards."""
        self._engine.engine_core.shutdown()
        self._log.unlink(missing_ok=True)

    def _restart(self) -> None:
        self.num_restarts += 1
        self._engine.engine_core.shutdown()
        try:
            self._engine = start_engine(self._annotator, self._args, self._log)
        except InputError as error:
            raise RuntimeError(f"after it died: {error}") from error

    # Requests

    def _ask(self, indices: Iterable[int], texts: list[str], answers: dict[int, Answer]) -> None:
        """Put an answer for each of ``indices`` into ``answers``.

        All are handed over at once: the engine's process works on the first while the rest is tokenized here,
        and its scheduler keeps the batch full.
        """
        requests: dict[str, tuple[_PendingRecord, TokenSequence]] = {}
        for index in indices:
            prompt = None
            try:
                prompt = self._renderer.encode(texts[index], self._max_prompt_tokens, self._annotator.truncation)
                self._submit(_PendingRecord(index, texts[index], prompt, max(1, len(self._next_tokens))), requests)
            except _RECORD_FAULTS as error:
                answers[index] = failed_answer(error, prompt)
        while requests:
            for output in self._engine.step():
                if not output.finished or output.request_id not in requests:
                    continue
                record, path = requests.pop(output.request_id)
                record.outputs[path] = output
                if len(record.outputs) == record.num_requests and record.index not in answers:
                    answers[record.index] = self._answer(record)

    def _submit(self, record: _PendingRecord, requests: dict[str, tuple[_PendingRecord, TokenSequence]]) -> None:
        for path, params in self._sampling_params(record.text):
            name = str(next(self._request_ids))
            self._engine.add_request(name, tokens_input([*record.prompt.token_ids, *path]), params)
            requests[name] = (record, path)

    def _sampling_params(self, text: str) -> Iterable[tuple[TokenSequence, SamplingParams]]:
        """What is asked about one record: the tokens put after its prompt, and how to go on from there."""
        if self._sequences is not None:
            for path, token_ids in self._next_tokens.items():
                params = SamplingParams(
                    temperature=0,
                    max_tokens=1,
                    logprob_token_ids=token_ids,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                yield path, params
            return
        sampling = TokenSampling.of(self._annotator.decoding)
        params = SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=self._annotator.decoding.max_new_tokens,
            seed=record_key(sampling.seed, text) >> 1,  # a signed 64-bit number there
            stop=self._renderer.stop,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        yield (), params

    # Answers

    def _answer(self, record: _PendingRecord) -> Answer:
        for output in record.outputs.values():
            reason = output.outputs[0].finish_reason
            if reason not in ("stop", "length"):
                return failed_answer(
                    RuntimeError(f"vLLM ended the request: {reason}"), record.prompt, is_transient=True
                )
        if self._sequences is not None:
            probabilities = self._sequences.category_probabilities(self._log_probabilities(record))[0]
            return scored_answer(self._annotator, self._task, record.text, record.prompt, probabilities)
        completion = record.outputs[()].outputs[0]
        return Answer(
            prompt=record.prompt.text,
            response=self._renderer.open_thought + completion.text,
            finish_reason="stop" if completion.finish_reason == "stop" else "length",
            num_prompt_tokens=len(record.prompt.token_ids),
            num_response_tokens=len(completion.token_ids),
            num_truncated_tokens=record.prompt.num_truncated_tokens,
        )

    def _log_probabilities(self, record: _PendingRecord) -> np.ndarray:
        """Shape (1, sequences): log-probability of each answer sequence right after the prompt."""
        assert self._sequences is not None
        after = {}
        for path, output in record.outputs.items():
            steps = output.outputs[0].logprobs
            assert steps, "vLLM gave no log-probabilities"
            after[path] = steps[0]
        sums = [
            sum(after[sequence[:num]][token_id].logprob for num, token_id in enumerate(sequence))
            for sequence in self._sequences.sequences
        ]
        return np.array([sums])


def _next_tokens(sequences: Iterable[TokenSequence]) -> dict[TokenSequence, list[int]]:
    """Each proper beginning of an answer sequence, the empty one first, and the tokens that follow it."""
    found: dict[TokenSequence, list[int]] = {(): []}
    for sequence in sequences:
        for num, token_id in enumerate(sequence):
            tokens = found.setdefault(sequence[:num], [])
            if token_id not in tokens:
                tokens.append(token_id)
    most = max(len(tokens) for tokens in found.values())
    if most > MAX_LOGPROB_TOKEN_IDS:
        raise InputError(
            f"the task's answer words begin with {most} different tokens; vLLM scores {MAX_LOGPROB_TOKEN_IDS} at most"
        )
    return found
