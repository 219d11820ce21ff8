"""The label stage through Ray against the bare classifier, and two actors of one thread against one.

    python tests/benchmarks/bench_label.py --records 6000

Rates are of the working time: from the first part's start to the last one's end, without Ray's start and the
loading of the model, which are printed beside (they do not grow with the corpus).
"""

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import ray
import torch
from bench_classifier import ENCODER, review_texts, save_checkpoint
from transformers import logging

from llambert import schema
from llambert.classifier import Classifier
from llambert.recipe import AnnotatorRecipe, ClassifierRecipe, CorpusRecipe, LabelRecipe, Recipe
from llambert.run import Run
from llambert.run_directory import Manifest, TableDirectory
from llambert.stages.label import label
from llambert.tasks import load_task


def make_run(folder: Path, checkpoint: str, texts: list[str], rows_per_part: int, label_recipe: LabelRecipe) -> Run:
    """A run whose corpus and checkpoint are complete."""
    recipe = Recipe(
        name="bench",
        task="reviews",
        corpus=CorpusRecipe(path=checkpoint),
        annotator=AnnotatorRecipe(model=checkpoint, num_records=1),
        classifier=ClassifierRecipe(model=checkpoint),
        label=label_recipe,
        storage=str(folder),
    )
    run = Run(recipe, load_task("reviews"))
    corpus, made = run.table("corpus"), run.table("checkpoint")
    ids = [f"r{i:09d}" for i in range(len(texts))]
    columns = {schema.RECORD_ID: ids, schema.TEXT: texts, schema.SPLIT: ["all"] * len(texts)}
    table = pa.table({**columns, schema.GOLD_LABEL: pa.nulls(len(texts), pa.string())}, schema=schema.CORPUS)
    parts = [
        corpus.commit_part(f"part-00000-{start // rows_per_part:06d}.parquet", table.slice(start, rows_per_part))
        for start in range(0, len(texts), rows_per_part)
    ]
    _complete(corpus, len(texts), parts)
    Path(made.path()).mkdir(parents=True)
    for file in Path(checkpoint).iterdir():
        Path(made.path(file.name)).write_bytes(file.read_bytes())
    _complete(made, 0, [])
    return run


def _complete(table: TableDirectory, num: int, parts: list) -> None:
    fingerprint = table.uri.rsplit("/", 1)[-1]
    table.write_manifest(
        Manifest(stage="bench", fingerprint=fingerprint, num_in=num, num_kept=num, wall_seconds=0.0, parts=parts)
    )


def bare_rate(checkpoint: str, texts: list[str], threads: int) -> float:
    """Records per second of ``Classifier.predict`` alone, in this process."""
    classifier = Classifier(checkpoint, device="cpu", num_threads=threads)
    classifier.predict(texts[:64])
    started = time.perf_counter()
    classifier.predict(texts)
    return len(texts) / (time.perf_counter() - started)


def through_ray(run: Run) -> Manifest:
    """The stage in a cluster of its own."""
    manifest = label(run)
    ray.shutdown()
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--records", type=int, default=6000)
    parser.add_argument("--rows-per-part", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2, help="of the one actor compared with the bare classifier")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    texts = (review_texts() * (1 + arguments.records // 12_000))[: arguments.records]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = save_checkpoint(arguments.encoder, str(folder / "checkpoint"))
        bare = bare_rate(checkpoint, texts, arguments.threads)
        manifests = [
            through_ray(
                make_run(
                    folder / f"{actors}-{threads}",
                    checkpoint,
                    texts,
                    arguments.rows_per_part,
                    LabelRecipe(min_actors=actors, max_actors=actors, cpus_per_actor=float(threads)),
                )
            )
            for actors, threads in ((1, arguments.threads), (1, 1), (2, 1))
        ]
    stage, one, two = (manifest.measures["records_per_second"] for manifest in manifests)
    startup_s = manifests[0].measures["startup_seconds"]
    print(f"{len(texts):,} records in parts of {arguments.rows_per_part}, torch {torch.__version__}")
    print(f"bare classifier, {arguments.threads} threads        {bare:8.1f} rec/s")
    print(f"stage, one actor of {arguments.threads} threads     {stage:8.1f} rec/s   {stage / bare:.2f} of bare")
    print(f"  Ray's start and the model's took {startup_s:.1f} s")
    print(f"stage, one actor of 1 thread      {one:8.1f} rec/s")
    print(f"stage, two actors of 1 thread     {two:8.1f} rec/s   {two / one:.2f}x one")


if __name__ == "__main__":
    main()
