"""The annotate stage against a bare loop over its engine, and the engine against the reference's way of asking.

    python -m tests.benchmarks.bench_annotate [--records 1000] [--generate-records 60]

Film reviews, SmolLM2-135M, the demo's recipe. The bare loop is one engine, in a process of its own without Ray, with
as many threads as the stage's replicas have together. Prints both sides and the ratio; exit status 1 below the floors:
0.95 of the bare loop, 5 times a Hugging Face ``generate`` loop (batch size 1, max_new_tokens 10, sampled).
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import ray
import torch

from llambert import schema
from llambert.engines import create_engine
from llambert.engines.transformers import load_model
from llambert.recipe import AnnotatorRecipe
from llambert.run import Run, open_run
from llambert.stages.annotate import annotate
from llambert.stages.ingest import ingest
from llambert.stages.sample import sample
from tests.fixtures.stored_responses import joined

RECIPE = Path(__file__).parents[2] / "jobs" / "recipes" / "reviews.yaml"
STAGE_FLOOR, GENERATE_FLOOR = 0.95, 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000, help="annotated by the stage and by the bare loop")
    parser.add_argument("--generate-records", type=int, default=60, help="asked about one by one with generate()")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"storage={folder}", f"annotator.num_records={arguments.records}", "annotator.mode=score"]
        run = open_run(str(RECIPE), settings)
        ingest(run)
        sample(run)
        manifest = annotate(run)
        ray.shutdown()
        responses = joined(run).to_pydict()
    stage = manifest.measures["records_per_second"]
    whole = manifest.num_in / manifest.wall_seconds
    bare = bare_loop(run, responses[schema.TEXT])
    one_by_one = generate_loop(run.recipe.annotator, responses[schema.PROMPT][: arguments.generate_records])
    print(f"annotate stage, from its first record   {stage:8.2f} records/s ({manifest.num_in} records)")
    print(f"annotate stage, Ray and model start too {whole:8.2f} records/s")
    print(f"bare loop over the same engine          {bare:8.2f} records/s")
    print(f"  stage / bare loop                     {stage / bare:8.3f} (floor {STAGE_FLOOR})")
    print(f"generate loop, batch size 1, 10 tokens  {one_by_one:8.2f} records/s")
    print(f"  engine / generate loop                {bare / one_by_one:8.2f} (floor {GENERATE_FLOOR})")
    return 0 if stage / bare >= STAGE_FLOOR and bare / one_by_one >= GENERATE_FLOOR else 1


def bare_loop(run: Run, texts: list[str]) -> float:
    """Records per second of the engine alone, over the slices the stage makes."""
    annotator = run.recipe.annotator
    cpus = annotator.max_replicas * annotator.cpus_per_replica
    engine = create_engine(annotator.model_copy(update={"cpus_per_replica": cpus}), run.task)
    started = time.perf_counter()
    for first in range(0, len(texts), annotator.records_per_part):
        engine.annotate(texts[first : first + annotator.records_per_part])
    seconds = time.perf_counter() - started
    engine.close()
    return len(texts) / seconds


def generate_loop(annotator: AnnotatorRecipe, prompts: list[str]) -> float:
    """Records per second the way of the paper's reference code: one prompt, one sampled answer, the next prompt."""
    model: Any
    model, tokenizer = load_model(annotator, reordered=False)
    torch.manual_seed(0)
    started = time.perf_counter()
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=50, max_new_tokens=10, pad_token_id=tokenizer.eos_token_id
        )
        tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    return len(prompts) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
