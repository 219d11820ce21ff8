"""The label stage through Ray against the bare classifier, and two actors of one thread against one.

    python -m tests.benchmarks.bench_label

Three rates of the stage: of the actors at work, each after its own first part, which is what a long run comes to;
from the first record of all to the last, in which one actor may still load its model; and of the whole stage with
Ray's start, which does not grow with the corpus.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import ray
from transformers import logging

from llambert import schema
from llambert.classifier.inference import Classifier
from llambert.corpus_recipe import CorpusRecipe
from llambert.recipe import AnnotatorRecipe, ClassifierRecipe, LabelRecipe, Recipe
from llambert.run import Run
from llambert.stages.label import label
from llambert.storage.manifest import Manifest
from llambert.tasks import load_task
from tests.benchmarks.bench_classifier import ENCODER, review_texts, save_checkpoint


def make_run(storage: str, checkpoint: str, parts: Iterable[list[str]], label_recipe: LabelRecipe) -> Run:
    """A run whose corpus, a list of texts a part, and checkpoint are complete; what is there already stays."""
    recipe = Recipe(
        name="bench",
        task="reviews",
        corpus=CorpusRecipe(path=checkpoint),
        annotator=AnnotatorRecipe(model=checkpoint, num_records=1),
        classifier=ClassifierRecipe(model=checkpoint),
        label=label_recipe,
        storage=storage,
    )
    run = Run(recipe, load_task("reviews"))
    corpus, made = run.table("corpus"), run.table("checkpoint")
    if corpus.read_manifest() is None:
        committed = [
            corpus.commit_part(f"part-00000-{number:06d}.parquet", corpus_table(number, texts))
            for number, texts in enumerate(parts)
        ]
        corpus.complete("ingest", committed)
    if made.read_manifest() is None:
        made.filesystem.makedirs(made.path(), exist_ok=True)
        for file in Path(checkpoint).iterdir():
            made.filesystem.pipe_file(made.path(file.name), file.read_bytes())
        made.complete("finetune", [])
    return run


def corpus_table(part: int, texts: list[str]) -> pa.Table:
    ids = [f"r{part:06d}-{row:06d}" for row in range(len(texts))]
    columns = {schema.RECORD_ID: ids, schema.TEXT: texts, schema.SPLIT: ["all"] * len(texts)}
    return pa.table({**columns, schema.GOLD_LABEL: pa.nulls(len(texts), pa.string())}, schema=schema.CORPUS)


def in_parts(texts: list[str], rows_per_part: int) -> list[list[str]]:
    return [texts[start : start + rows_per_part] for start in range(0, len(texts), rows_per_part)]


def bare_rate(checkpoint: str, texts: list[str], threads: int) -> float:
    """Records per second of ``Classifier.predict`` alone, in a process of its own that has just these threads."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.bench_label",
        "--bare",
        checkpoint,
        "--records",
        str(len(texts)),
        "--threads",
        str(threads),
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def predict_rate(checkpoint: str, texts: list[str], threads: int) -> float:
    classifier = Classifier(checkpoint, device="cpu", num_threads=threads)
    classifier.predict(texts[:64])
    started = time.perf_counter()
    classifier.predict(texts)
    return len(texts) / (time.perf_counter() - started)


def replica_rates(manifest: Manifest) -> list[float]:
    return [rate for name, rate in manifest.measures.items() if name.startswith("replica_rate.")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--records", type=int, default=16000, help="of the stage with two actors; others take half")
    parser.add_argument("--rows-per-part", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1, help="of each actor, and of the bare classifier")
    parser.add_argument("--bare", metavar="CHECKPOINT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    texts = (review_texts() * (1 + arguments.records // 12_000))[: arguments.records]
    if arguments.bare:
        print(predict_rate(arguments.bare, texts, arguments.threads))
        return
    with tempfile.TemporaryDirectory() as name:
        checkpoint = save_checkpoint(arguments.encoder, str(Path(name) / "checkpoint"))
        half = texts[: len(texts) // 2]
        bare = bare_rate(checkpoint, half, arguments.threads)
        manifests = []
        for actors, given in ((1, half), (2, texts)):
            recipe = LabelRecipe(min_actors=actors, max_actors=actors, cpus_per_actor=float(arguments.threads))
            run = make_run(f"{name}/{actors}", checkpoint, in_parts(given, arguments.rows_per_part), recipe)
            manifests.append(label(run))
            ray.shutdown()
    one, two = manifests
    steady_one, steady_two = (sum(replica_rates(manifest)) for manifest in manifests)
    print(f"{len(texts):,} records in parts of {arguments.rows_per_part}, {arguments.threads} threads an actor")
    print("rec/s of                     at work, summed over actors   first to last record   Ray's start and all")
    print(f"bare classifier                                {bare:8.1f}")
    for name, manifest, steady in (("one actor", one, steady_one), ("two actors", two, steady_two)):
        whole = manifest.num_in / manifest.wall_seconds
        print(f"stage, {name:10}                             {steady:8.1f}               {_span_rate(manifest):8.1f}"
              f"              {whole:8.1f}")  # fmt: skip
    print(f"stage, one actor, of the bare classifier           {steady_one / bare:.2f} at work, "
          f"{_span_rate(one) / bare:.2f} first to last")  # fmt: skip
    print(f"two actors of one                                  {steady_two / steady_one:.2f} at work, "
          f"{_span_rate(two) / _span_rate(one):.2f} first to last")  # fmt: skip
    for name, manifest in (("one", one), ("two", two)):
        shares = [f"{share:.2f}" for key, share in manifest.measures.items() if key.startswith("busy_share.")]
        print(f"model busy, {name}: {', '.join(shares)}; started after {manifest.measures['startup_seconds']:.1f} s")


def _span_rate(manifest: Manifest) -> float:
    return manifest.measures["records_per_second"]


if __name__ == "__main__":
    main()
