"""The training core on a GPU: roberta-large's shape with random weights; steps/s and share of the chip's peak.

    python -m tests.benchmarks.bench_finetune_gpu [--steps 100] [--compile] [--small]

Batch 16 x 512 tokens, and batches of 16 bucketed on IMDb-like lengths (log-normal, median 226 tokens, cut at
512), beside unbucketed ones. Neither Ray nor vLLM nor a download is needed. Peak: dense bfloat16 of the chip's
data sheet. FLOP of a step: 3 passes of 2 a weight of the matrix products and token, and of 4 * length * hidden a
token and layer for attention; padding counts as work in no figure but ``steps/s``. The paper: 5 epochs on 25,000
reviews in 2 h 33 min, 1.17 s a step.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from llambert.recipe import ClassifierRecipe
from llambert.training.encoder import Encoder
from llambert.training.loop import FineTuning, Observer, Phase, Step
from llambert.training.training_set import TrainingSet

PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}
_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
BATCH, MAX_LENGTH, PAPER_S = 16, 512, 2 * 3600 + 33 * 60


@dataclass(frozen=True)
class RandomTokens(Encoder):
    """An encoder whose "texts" are numbers of tokens."""

    def tokenize(self, texts: list[str]) -> list[np.ndarray]:
        random = np.random.default_rng(0)
        return [random.integers(4, 1_000, size=int(text), dtype=np.int32) for text in texts]


class Clock(Observer):
    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def on_steps(self, steps: list[Step]) -> None:
        self.seen.append((steps[-1].step, time.perf_counter()))

    def steps_per_second(self) -> float:
        """After the first look, which includes compilation and the allocator's warm-up."""
        (first, started), (last, ended) = self.seen[min(2, len(self.seen) - 2)], self.seen[-1]
        return (last - first) / (ended - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--small",
        action="store_true",
        help="a tiny shape and an eighth of the lengths, to try the script without a GPU",
    )
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    random = np.random.default_rng(0)
    natural = np.minimum(random.lognormal(np.log(226), 0.65, arguments.steps * BATCH).astype(int) + 8, MAX_LENGTH)
    longest = np.full(arguments.steps * BATCH, MAX_LENGTH)
    if arguments.small:
        natural, longest = natural // 8 + 1, longest // 8
    cases: dict[str, tuple[np.ndarray, bool]] = {
        "16 x 512": (longest, False),
        "IMDb-like, bucketed": (natural, True),
        "IMDb-like, as they come": (natural, False),
    }
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = next((value for chip, value in PEAK_TFLOPS.items() if chip in name), None)
    print(f"{name}, {'compiled' if arguments.compile else 'eager'}, batch {BATCH}")
    rates = {}
    for title, (lengths, bucketing) in cases.items():
        rates[title], flop = measure(lengths, bucketing, arguments, device)
        tflops = rates[title] * flop / 1e12
        share = f", {tflops / peak:.1%} of {peak} TFLOP/s" if peak else ""
        whole_s = 5 * -(-25_000 // BATCH) / rates[title]
        whole = f"; 5 epochs of 25,000 reviews {whole_s / 60:.1f} min, paper / this {PAPER_S / whole_s:.1f}"
        print(
            f"{title:24} {rates[title]:7.2f} steps/s, {tflops:6.1f} TFLOP/s of real tokens{share}"
            f"{'' if arguments.small else whole}",
            flush=True,
        )
    print(f"bucketed / as they come  {rates['IMDb-like, bucketed'] / rates['IMDb-like, as they come']:.2f}")
    return 0


def measure(
    lengths: np.ndarray, bucketing: bool, arguments: argparse.Namespace, device: torch.device
) -> tuple[float, float]:
    """Steps a second, and the floating-point operations of a mean step."""
    shape: dict[str, Any] = dict(zip(_SHAPE, (1024, 24, 16, 4096), strict=True))
    if arguments.small:
        shape = dict(zip(_SHAPE, (64, 2, 2, 128), strict=True))
    torch.manual_seed(0)
    vocabulary = 1_000 if arguments.small else 50_265
    config = RobertaConfig(vocab_size=vocabulary, max_position_embeddings=514, type_vocab_size=1, num_labels=2, **shape)
    model = RobertaForSequenceClassification(config)
    recipe = ClassifierRecipe(
        model="roberta-large",
        epochs=1,
        batch_size=BATCH,
        held_out_share=0.0,
        bucketing=bucketing,
        compile=arguments.compile,
    )
    encoder = RandomTokens(model, SimpleNamespace(pad_token_id=1), MAX_LENGTH)  # type: ignore[arg-type]
    num = len(lengths)
    labels = np.arange(num) % 2
    targets = np.eye(2, dtype=np.float32)[labels]
    train = TrainingSet([str(length) for length in lengths], labels, targets, np.ones(num, dtype=np.float32))
    nothing = train.take(np.arange(0))
    clock = Clock()
    phases = [Phase("silver", train, nothing, 1, 1e-5)]
    FineTuning(encoder, phases, recipe, ["no", "yes"], device, clock).run()
    weights = sum(p.numel() for n, p in model.roberta.encoder.named_parameters() if p.ndim == 2)
    tokens = lengths.sum() / arguments.steps
    attention = 4 * (lengths.astype(float) ** 2).sum() / arguments.steps * config.hidden_size * config.num_hidden_layers
    return clock.steps_per_second(), 3 * (2 * weights * tokens + attention)


if __name__ == "__main__":
    sys.exit(main())
