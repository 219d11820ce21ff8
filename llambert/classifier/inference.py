"""A checkpoint that labels: texts in, labels and probabilities out, in input order. No Ray.

Texts are processed in windows. A background thread tokenizes the next window (Rust, outside Python's lock)
while the model works on this one. Within a window records are sorted by length and cut into batches of a
token budget whose padding stays below ``MAX_PADDING_WASTE``; most batches hold records of one length and
need no attention mask at all. A few texts at a time, as in requests, are packed regardless of their
lengths; on a GPU all are, if the model's family allows it: batches are full there, without padding or masks. On a CPU
each core works on a separate batch: threads that share one wait for each other at every layer.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from tokenizers import Encoding

from llambert.classifier.acceleration import accelerate, single_threaded_pool, to_device
from llambert.classifier.architecture import find_input_format, length_limit, position_padding_index, probe_texts
from llambert.classifier.batching import (
    MAX_PADDING_WASTE,
    Batch,
    group_by_size,
    pack_batch,
    plan_batches,
    plan_packs,
    plan_sorted_packs,
)
from llambert.classifier.checkpoint import load_checkpoint, load_config_and_tokenizer
from llambert.classifier.chip import batch_tokens, resolved_dtype
from llambert.classifier.predictions import Predictions, concatenate
from llambert.errors import InputError, LabelFault, panics_as_errors
from llambert.passing_faults import PassingFault, is_device_fault
from llambert.recipe import LabelRecipe
from llambert.storage.reference import local_copy
from llambert.storage.table_files import check_if_table

log = logging.getLogger(__name__)

TIE_MARGIN = 1e-4
"""In float32, a record whose two best probabilities are closer than this is classified again in a batch of one: last
bits depend on the batch (up to 5e-7 were measured), and so would a label, between batches, parts and requests."""

WINDOW_RECORDS = 8192
WINDOW_CHARS = 32 << 20
_WINDOWS_AHEAD = 1
_TEXTS_PER_ENCODING = 256  # an Encoding takes about 100 bytes a token: only ids outlive a call
# Of few texts, and on GPUs, where texts cannot be packed. Sixteen reviews at a time on a CPU: 260 records/s at 0.03,
# 315 at 0.15, 309 at 0.3.
FULL_BATCHES_PADDING_WASTE = 0.15
_CHARS_PER_TOKEN = 32
_MAX_CHARS_PER_TOKEN = 512
_WHOLE_TEXT_CHARS = 1 << 30
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MAX_LOADED_BYTES = 1 << 30
_NON_SPACE = re.compile(r"\S")


@dataclass(frozen=True)
class _Window:
    num_texts: int
    batches: list[Batch]
    failures: dict[int, LabelFault]
    num_tokens: int
    num_truncated: int


class Classifier:
    """A fine-tuned encoder, loaded once and used from one thread.

    ``checkpoint`` is a reference to a Hugging Face sequence classification folder whose ``id2label`` holds
    the categories; weights are read from safetensors only, and code of the folder is run only with
    ``trust_remote_code``. ``device``
    None: CUDA where there is a GPU. ``num_threads``: number of batches computed at once on a CPU, one per core; a
    single batch uses all of them. It sets PyTorch's threads for the whole process.
    ``dtype`` None: float32 on a CPU, half precision on a GPU. ``max_batch_tokens`` None: 2,048 on a CPU, up to 65,536
    on a GPU, of whose memory ``gpu_share`` is ours. ``few_texts``: optimize for calls with a few dozen texts: they are
    packed end to end on a CPU, too, if the model's family allows it, and otherwise may be padded more. ``compile``:
    ``torch.compile``, which needs a C compiler.
    ``InputError``: the checkpoint does not exist or is not a classifier.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        dtype: str | None = None,
        max_batch_tokens: int | None = None,
        device: str | None = None,
        num_threads: int | None = None,
        few_texts: bool = False,
        compile: bool = False,
        gpu_share: float = 1.0,
        trust_remote_code: bool = False,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = resolved_dtype(dtype, self.device)
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._tie_margin = TIE_MARGIN if dtype == "float32" else 0.0
        # On a GPU a full batch is worth more than one without padding.
        is_lax = few_texts or self.device.type == "cuda"
        self._max_padding_waste = FULL_BATCHES_PADDING_WASTE if is_lax else MAX_PADDING_WASTE
        load = partial(load_checkpoint, checkpoint, _DTYPES[dtype], trust_remote_code)
        model, tokenizer = load()
        torch.nn.Module.to(model, self.device)
        self.max_batch_tokens = max_batch_tokens or batch_tokens(model, self.device, gpu_share)
        self.categories: list[str] = [name for _, name in sorted((model.config.id2label or {}).items())]
        try:
            self.max_length = length_limit(model, tokenizer)
            self._format = find_input_format(model, tokenizer)
        except PassingFault:
            raise
        except InputError as error:
            raise InputError(f"{checkpoint}: {error}") from error
        self._padding_index = position_padding_index(model)
        self.tokenizer = tokenizer.backend_tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.max_length, direction=tokenizer.truncation_side)
        # A text that is truncated at its start must be read to its end.
        reads_whole_texts = tokenizer.truncation_side == "left"
        self.max_text_chars = _WHOLE_TEXT_CHARS if reads_whole_texts else _MAX_CHARS_PER_TOKEN * self.max_length
        self._first_chars = _WHOLE_TEXT_CHARS if reads_whole_texts else _CHARS_PER_TOKEN * self.max_length
        texts, wants_packs = probe_texts(model, tokenizer, self._format), few_texts or self.device.type == "cuda"
        # A compiled model calls oneDNN by itself, and does not take layers that do.
        model, self._is_packed = accelerate(
            model, self._format, texts, wants_packs, lambda: torch.nn.Module.to(load()[0], self.device), not compile
        )
        self._num_cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._pool = single_threaded_pool(self._num_cores) if self._num_cores > 1 else None
        self.model = torch.compile(model, dynamic=True) if compile else model

    @classmethod
    def from_recipe(cls, checkpoint: str, recipe: LabelRecipe, few_texts: bool = False) -> Self:
        """The classifier with the settings of the recipe's label stage."""
        device = None if recipe.gpus_per_actor is None else "cuda" if recipe.gpus_per_actor > 0 else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError(
                f"label.gpus_per_actor: {recipe.gpus_per_actor:g}, but PyTorch finds no GPU here; install its build "
                "for CUDA, or set 0"
            )
        return cls(
            checkpoint,
            dtype=recipe.dtype,
            max_batch_tokens=recipe.max_batch_tokens,
            device=device,
            compile=recipe.compile and device == "cuda",
            gpu_share=recipe.gpus_per_actor or 1.0,
            num_threads=max(1, round(recipe.cpus_per_actor)),
            few_texts=few_texts,
            trust_remote_code=recipe.trust_remote_code,
        )

    def predict(self, texts: Sequence[str]) -> Predictions:
        """Labels and probabilities of ``texts``, in their order; a text that fails is in ``failures``."""
        if len(texts_by_window := list(windows(texts)) or [[]]) == 1:
            return self._classify(self._prepare(texts_by_window[0]))
        return concatenate(list(self.stream(texts_by_window)))

    def stream(self, texts: Iterable[Sequence[str]]) -> Iterator[Predictions]:
        """One ``Predictions`` per window of texts, in order, holding two windows in memory at most.

        The iterable is read from another thread, ahead of the model. Records are sorted and
        batched within their window, so a record's batch depends on its window only.
        """
        source = iter(texts)

        def prepare_next() -> _Window | None:
            window = next(source, None)
            return None if window is None else self._prepare(window)

        with ThreadPoolExecutor(1, "tokenizer") as thread:
            ahead = deque(thread.submit(prepare_next) for _ in range(_WINDOWS_AHEAD + 1))
            while (window := ahead.popleft().result()) is not None:
                ahead.append(thread.submit(prepare_next))
                yield self._classify(window)

    # Before the model: in the background thread

    def _prepare(self, texts: Sequence[str]) -> _Window:
        ids: list[np.ndarray] = []
        failures: dict[int, LabelFault] = {}
        num_truncated = 0
        for start in range(0, len(texts), _TEXTS_PER_ENCODING):
            chunk = list(texts[start : start + _TEXTS_PER_ENCODING])
            for offset, encoded in enumerate(self._encode(chunk)):
                if encoded is None:
                    failures[start + offset] = (
                        LabelFault.NULL_TEXT if chunk[offset] is None else LabelFault.TOKENIZER_ERROR
                    )
                    ids.append(np.zeros(0, np.int32))
                else:
                    ids.append(self._format.with_required_tokens(encoded[0], self.max_length))
                    num_truncated += encoded[1]
        rows = [row for row in range(len(texts)) if row not in failures]
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        batches = [
            self._collate(part, [ids[row] for row in part])
            for part in self._plan(np.array(rows, dtype=np.int64), ids, lengths)
        ]
        return _Window(len(texts), batches, failures, int(lengths.sum()), num_truncated)

    def _encode(self, texts: list[str]) -> list[tuple[np.ndarray, bool] | None]:
        """Token ids and whether they were truncated, per text; None where the tokenizer fails on it."""
        if all(isinstance(text, str) and len(text) <= self._first_chars for text in texts):
            try:
                return [
                    (np.array(encoding.ids, dtype=np.int32), bool(encoding.overflowing))
                    for encoding in self._encode_batch(texts)
                ]
            except (TypeError, ValueError):  # one text is at fault: encode each alone to find it
                pass
        return [self._encode_alone(text) for text in texts]

    @panics_as_errors()
    def _encode_batch(self, texts: list[str]) -> list[Encoding]:
        return self.tokenizer.encode_batch_fast(texts)

    def _encode_alone(self, text: str) -> tuple[np.ndarray, bool] | None:
        """One text, read only as far as its kept tokens reach.

        Whole words are tokenized, from the start: ``32 * max_length`` characters, then twice as many, until
        some tokens are truncated (more text cannot change those kept) or the text ends. At most
        ``512 * max_length`` characters are read, even if they yield too few tokens (mebibytes without a space).
        Lone surrogates, which are not valid Unicode, become U+FFFD.
        """
        if not isinstance(text, str):
            return None
        num_chars = self._first_chars
        while True:
            whole = num_chars >= len(text)
            prefix = text if whole else text[:num_chars]
            if not whole and num_chars < self.max_text_chars:
                words = prefix.rsplit(maxsplit=1)
                prefix = words[0] if len(words) == 2 else ""
            try:
                encoding = self._encode_batch([_replace_lone_surrogates(prefix)])[0]
            except (TypeError, ValueError) as error:
                log.warning("the tokenizer failed on a text of %d characters: %s", len(text), type(error).__name__)
                return None
            truncated = bool(encoding.overflowing)
            if truncated or whole or num_chars >= self.max_text_chars:
                rest = not whole and _NON_SPACE.search(text, num_chars) is not None
                return np.array(encoding.ids, dtype=np.int32), truncated or rest
            num_chars *= 2

    def _plan(self, rows: np.ndarray, ids: Sequence[np.ndarray], lengths: np.ndarray) -> list[np.ndarray]:
        if self._is_packed and self.device.type == "cuda":
            return plan_sorted_packs(rows, lengths, self.max_batch_tokens)
        if self._is_packed:
            return plan_packs(rows, lengths, self.max_batch_tokens, self._num_cores)
        groups = self._format.batch_groups([ids[row] for row in rows])
        return [
            batch
            for group in np.unique(groups)
            for batch in plan_batches(rows[groups == group], lengths, self.max_batch_tokens, self._max_padding_waste)
        ]

    def _collate(self, rows: np.ndarray, ids: Sequence[np.ndarray]) -> Batch:
        if self._is_packed:
            batch = pack_batch(rows, ids, self._padding_index)
        else:
            batch = Batch(rows, ids, self._format.model_inputs(ids))
        if self.device.type == "cuda":  # page-locked here, so that the copy to the GPU overlaps with its work
            pinned = {name: value if value is None else value.pin_memory() for name, value in batch.inputs.items()}
            batch = replace(batch, inputs=pinned)
        return batch

    # The model: in the caller's thread

    def _classify(self, window: _Window) -> Predictions:
        started = time.perf_counter()
        failures = dict(window.failures)
        probabilities = np.full((window.num_texts, len(self.categories)), np.nan, dtype=np.float32)
        # Results stay on the device until the window ends: reading one back would make the GPU wait.
        done: list[tuple[np.ndarray, torch.Tensor]] = []
        run = self._pool.map if self._pool and len(window.batches) > 1 else map
        for found in run(lambda batch: self._forward_or_split(batch, failures), window.batches):
            done += found
        for rows, result in done:
            probabilities[rows] = result.cpu().numpy()
        self._resolve_ties(window.batches, probabilities)
        for row in np.flatnonzero(~np.isfinite(probabilities).all(axis=1)):
            failures.setdefault(int(row), LabelFault.NOT_FINITE)
        busy_seconds = time.perf_counter() - started
        failed = sorted(failures)
        probabilities[failed] = np.nan
        best = np.where(np.isnan(probabilities), -1, probabilities).argmax(axis=1)
        labels: list[str | None] = [self.categories[column] for column in best]
        for row in failed:
            labels[row] = None
        return Predictions(
            labels,
            probabilities[np.arange(window.num_texts), best],
            probabilities,
            failures,
            window.num_tokens,
            sum(batch.num_positions for batch in window.batches),
            window.num_truncated,
            busy_seconds,
        )

    def _resolve_ties(self, batches: list[Batch], probabilities: np.ndarray) -> None:
        """Replace the probabilities of each near-tied record by those computed in a batch of one."""
        if not self._tie_margin:
            return
        best = np.sort(probabilities, axis=1)
        tied = best[:, -1] - best[:, -2] < self._tie_margin  # false for NaN
        for batch in batches if tied.any() else []:
            for place in np.flatnonzero(tied[batch.rows]) if len(batch.rows) > 1 else []:
                single = self._collate(batch.rows[[place]], [batch.ids[place]])
                probabilities[single.rows] = self._forward(single).cpu().numpy()

    def _forward_or_split(self, batch: Batch, failures: dict[int, LabelFault]) -> list[tuple[np.ndarray, torch.Tensor]]:
        """The batch's probabilities; if the model fails on it, those of its halves, down to single records.

        A record that fails alone is added to ``failures``, unless the model fails on an empty text too: then the
        model or the machine is at fault, and the exception is raised.
        """
        try:
            return [(batch.rows, self._forward(batch))]
        except (RuntimeError, IndexError, ValueError) as error:
            if is_device_fault(error):
                raise
            if len(batch.rows) == 1:
                self._forward(self._prepare([""]).batches[0])
                log.warning("the model failed on a text of %d tokens: %s", batch.num_positions, error)
                failures[int(batch.rows[0])] = LabelFault.MODEL_ERROR
                return []
        middle = len(batch.rows) // 2
        return [
            result
            for half in (slice(0, middle), slice(middle, None))
            for result in self._forward_or_split(self._collate(batch.rows[half], batch.ids[half]), failures)
        ]

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> torch.Tensor:
        return self.model(**to_device(batch.inputs, self.device)).logits.float().softmax(dim=-1)


def validate_checkpoint(checkpoint: str, trust_remote_code: bool = False) -> None:
    """``InputError`` if a checkpoint cannot label; checked before anything is started.

    Reads configuration and tokenizer, and weights of up to 1 GiB: some errors show only there. The files of a run's own
    checkpoint are compared with its manifest.
    """
    folder = Path(local_copy(checkpoint))
    check_if_table(checkpoint if "://" in checkpoint else str(folder))
    if sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= _MAX_LOADED_BYTES:
        Classifier(checkpoint, device="cpu", trust_remote_code=trust_remote_code)
    else:
        load_config_and_tokenizer(checkpoint, trust_remote_code)


def windows(texts: Iterable[str]) -> Iterator[list[str]]:
    """Runs of at most ``WINDOW_RECORDS`` texts and, single texts aside, 32 Mi characters."""
    sized = ((text, 1, len(text) if isinstance(text, str) else 0) for text in texts)
    return group_by_size(sized, WINDOW_RECORDS, WINDOW_CHARS)


def _replace_lone_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
