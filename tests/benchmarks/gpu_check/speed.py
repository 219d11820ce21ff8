"""How fast it is: labels, training steps, a checkpoint stored. Random weights of the shapes that people use."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from llambert.classifier.architecture import find_input_format
from llambert.classifier.inference import Classifier, Predictions
from llambert.recipe import ClassifierRecipe
from llambert.training.encoder import Encoder
from llambert.training.loop import FineTuning, Observer, Phase, Step
from llambert.training.optimization import create_optimizer, use_bfloat16
from llambert.training.training_set import TrainingSet
from tests.benchmarks.gpu_check.chips import driver_version, peak_tflops, product_tflops, synchronize
from tests.benchmarks.gpu_check.models import (
    CATEGORIES,
    MAX_LENGTH,
    Sizes,
    build_encoder,
    imdb_lengths,
    save_encoder,
    texts_of_lengths,
    word_tokenizer,
)
from tests.benchmarks.gpu_check.report import Line, Report

SHORT_TOKENS = 27  # mean of the film reviews of the demo


def describe_chip(device: torch.device, sizes: Sizes, report: Report) -> None:
    """Chip, driver, versions, and what a plain product reaches. Fails where torch finds no GPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        peak = peak_tflops(device)
        stated = f"data sheet {peak:.0f} TFLOP/s" if peak else "peak not in the table of chips.py"
        report(Line("chip", f"{name}, {memory:.0f} GiB", "", f"driver {driver_version()}, {stated}"))
    else:
        report(Line("chip", "CPU", "", torch.backends.cpu.get_cpu_capability()))
    tflops = product_tflops(device, sizes.product)
    report(Line("bfloat16 product", f"{tflops:.3g} TFLOP/s{_share(tflops, device)}", f"{sizes.product:,}³"))


def label_roberta(device: torch.device, sizes: Sizes, report: Report) -> None:
    """Labels at the shape of roberta-large."""
    _label(device, sizes, report, "roberta")


def label_modernbert(device: torch.device, sizes: Sizes, report: Report) -> None:
    """Labels at the shape of ModernBERT-base."""
    _label(device, sizes, report, "modernbert")


def _label(device: torch.device, sizes: Sizes, report: Report, family: str) -> None:
    imdb, short = imdb_lengths(sizes.num_texts), np.full(2 * sizes.num_texts, SHORT_TOKENS)
    corpora = {"IMDb lengths": imdb, f"{SHORT_TOKENS} tokens": short}
    texts = {name: texts_of_lengths(lengths) for name, lengths in corpora.items()}
    modes: dict[str, dict[str, Any]] = {
        "as it is": {},
        "float32": {"dtype": "float32"},
        "bfloat16": {"dtype": "bfloat16"},
        "bfloat16, compiled": {"dtype": "bfloat16", "compile": True},
    }
    if device.type == "cpu":  # Inductor takes a minute there: the wrapper alone is tried
        torch.compiler.set_stance("force_eager")
    with tempfile.TemporaryDirectory() as folder:
        save_encoder(Path(folder), family, sizes.large_encoder, device)
        shape = build_encoder(family, sizes.large_encoder, torch.device("meta"))
        for mode, options in modes.items():
            classifier = Classifier(folder, device=device.type, **options)
            for name, lengths in corpora.items():
                num = len(lengths) // 8 if mode == "float32" else len(lengths)
                measured = _predict(classifier, texts[name][:num], compiled="compile" in options)
                report(measured.line(f"{mode}, {name}", shape, lengths[:num], device))
            del classifier


@dataclass(frozen=True)
class _Measured:
    predictions: Predictions
    wall_s: float
    first_s: float
    num_batches: int
    num_masked: int

    def line(self, name: str, model: Any, lengths: np.ndarray, device: torch.device) -> Line:
        """Records/s of the model alone; tokenizing, which the label stage does meanwhile, is in the note."""
        seconds, num = self.predictions.busy_seconds, len(self.predictions.labels)
        tflops = forward_flop(model, lengths) / seconds / 1e12
        notes = [f"padding {self.predictions.padding_waste:.1%}"]
        if self.num_batches:
            notes.append(f"masked batches {self.num_masked} of {self.num_batches}")
        notes += [f"with tokenizing {num / self.wall_s:,.0f} records/s", f"first pass {self.first_s:.1f} s"]
        if self.predictions.failures:
            notes.append(f"{len(self.predictions.failures)} texts failed")
        value = f"{num / seconds:,.0f} records/s, {tflops:.3g} TFLOP/s{_share(tflops, device)}"
        is_failed = bool(self.predictions.failures)
        return Line(name, "FAILED, " * is_failed + value, f"{num:,} texts", ", ".join(notes), is_failed)


def _predict(classifier: Classifier, texts: list[str], compiled: bool) -> _Measured:
    """The second of two passes; the first, over a quarter of the texts, or over all to compile all shapes, warms up."""
    masked: list[bool] = []

    def count(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        masked.append(inputs.get("attention_mask") is not None)

    started = time.perf_counter()
    classifier.predict(texts if compiled else texts[: len(texts) // 4])
    first_s = time.perf_counter() - started
    # A hook would be compiled along, and the batches are the same.
    hook = None if compiled else classifier.model.register_forward_pre_hook(count, with_kwargs=True)
    started = time.perf_counter()
    predictions = classifier.predict(texts)
    wall_s = time.perf_counter() - started
    if hook is not None:
        hook.remove()
    return _Measured(predictions, wall_s, first_s, len(masked), sum(masked))


def forward_flop(model: Any, lengths: np.ndarray) -> float:
    """Of one pass over texts of these numbers of tokens; padding counts as no work.

    2 a weight of the layers' products and token, and of 4 * hidden a token and token it attends to, by layer: all of
    its text, or those within the window of a layer of local attention. ``model``: as its family builds it, since
    faster layers hold their weights elsewhere.
    """
    config = model.config
    weights = sum(
        parameter.numel()
        for name, parameter in model.base_model.named_parameters()
        if parameter.ndim == 2 and "embeddings" not in name
    )
    lengths = lengths.astype(float)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    attended = sum(
        (lengths * (np.minimum(lengths, config.local_attention) if kind == "sliding_attention" else lengths)).sum()
        for kind in kinds
    )
    return 2 * weights * lengths.sum() + 4 * config.hidden_size * attended


def _share(tflops: float, device: torch.device) -> str:
    peak = peak_tflops(device)
    return f", {tflops / peak:.1%} of peak" if peak else ""


@dataclass(frozen=True)
class _RandomTokens(Encoder):
    """An encoder whose "texts" are numbers of tokens."""

    def tokenize(self, texts: list[str]) -> list[np.ndarray]:
        random = np.random.default_rng(0)
        return [random.integers(4, 1_000, size=int(text), dtype=np.int32) for text in texts]


class _Clock(Observer):
    """Reads the clock where losses were read, which waits for the device."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, float]] = []

    def on_steps(self, steps: list[Step]) -> None:
        self.seen.append((steps[-1].step, time.perf_counter(), steps[-1].loss))

    def steps_per_second(self) -> float:
        """After the first look, which includes the allocator's warm-up."""
        (first, started, _), (last, ended, _) = self.seen[0], self.seen[-1]
        return (last - first) / (ended - started)


def finetune_roberta(device: torch.device, sizes: Sizes, report: Report) -> None:
    """Training steps at the shape of roberta-large, as ``llambert finetune`` takes them."""
    model = build_encoder("roberta", sizes.large_encoder, device)
    cases = {
        f"{sizes.batch_size} x {sizes.max_length}": np.full(sizes.num_steps * sizes.batch_size, sizes.max_length),
        f"{sizes.batch_size}, IMDb lengths": imdb_lengths(sizes.num_steps * sizes.batch_size, sizes.max_length),
    }
    for name, lengths in cases.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        rate = _train(model, lengths, device, sizes)
        tflops = rate * 3 * forward_flop(model, lengths) / sizes.num_steps / 1e12
        autocast = "bfloat16 autocast" if use_bfloat16("auto", device) else "float32"
        peak_gib = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
        memory = f", at most {peak_gib:.1f} GiB" if peak_gib else ""
        value = f"{rate:.2f} steps/s, {tflops:.3g} TFLOP/s of real tokens{_share(tflops, device)}"
        report(Line(f"batch {name}", value, f"{sizes.num_steps} steps", f"{autocast}, bucketed{memory}"))


def _train(model: PreTrainedModel, lengths: np.ndarray, device: torch.device, sizes: Sizes) -> float:
    num = len(lengths)
    labels = np.arange(num) % 2
    targets = np.eye(2, dtype=np.float32)[labels]
    train = TrainingSet([str(length) for length in lengths], labels, targets, np.ones(num, dtype=np.float32))
    tokenizer = word_tokenizer()
    encoder = _RandomTokens(model, tokenizer, MAX_LENGTH, find_input_format(model.eval(), tokenizer))
    recipe = ClassifierRecipe(model="random", epochs=1, batch_size=sizes.batch_size, held_out_share=0.0)
    clock = _Clock()
    epochs = 1 if sizes.num_steps > 20 else 4  # losses are read every 10 steps and at the end of an epoch
    phases = [Phase("silver", train, train.take(np.arange(0)), epochs, 1e-5)]
    FineTuning(encoder, phases, recipe, CATEGORIES, device, clock).run()
    return clock.steps_per_second()


def store_checkpoint(device: torch.device, sizes: Sizes, report: Report) -> None:
    """The state of a training of roberta-large's shape, with Adam's, as a file on the local disk."""
    model = build_encoder("roberta", sizes.large_encoder, device)
    optimizer = create_optimizer(model, 1e-5, 0.01)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    synchronize(device)
    started = time.perf_counter()
    state = {
        "model": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }
    copied_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.pt"
        started = time.perf_counter()
        torch.save(state, file)
        saved_s, num_bytes = time.perf_counter() - started, file.stat().st_size
    value = f"{copied_s + saved_s:.2f} s, {num_bytes / 1e9:.3g} GB"
    note = f"of it {copied_s:.2f} s to copy the weights to the CPU, without an fsync"
    report(Line("torch.save, weights and Adam's state", value, "1 state", note))
