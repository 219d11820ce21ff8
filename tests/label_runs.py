"""Runs whose corpus and checkpoint are there and whose labels are not: where the label stage begins."""

from pathlib import Path

import pyarrow as pa
from tiny_classifier import save_tiny_classifier, tiny_texts

from llambert import schema
from llambert.corpus_recipe import Columns, CorpusRecipe
from llambert.recipe import AnnotatorRecipe, ClassifierRecipe, LabelRecipe, Recipe
from llambert.run import Run
from llambert.run_directory import Manifest, Part, TableDirectory, open_filesystem
from llambert.tasks import load_task

ROWS_PER_PART = 20


def make_run(folder: Path, storage: str | None = None, keep: tuple[str, ...] = (), **label) -> Run:
    """A run in ``folder`` or at ``storage``; ``label`` are fields of the recipe's section of that name."""
    source = folder / "corpus.csv"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("text\n")
    encoder = folder / "encoder"
    if not encoder.exists():
        save_tiny_classifier(encoder)
    recipe = Recipe(
        name="test",
        task="reviews",
        corpus=CorpusRecipe(path=str(source), columns=Columns(keep=("year",))),
        annotator=AnnotatorRecipe(model=str(encoder), num_records=3),
        classifier=ClassifierRecipe(model=str(encoder)),
        label=LabelRecipe(keep=keep, **label),
        storage=storage or str(folder / "run"),
    )
    return Run(recipe, load_task("reviews"))


def fill(run: Run, texts: list[str], encoder: Path, gold: bool = False, rows_per_part: int = ROWS_PER_PART) -> Run:
    """Complete the corpus, in parts of 20 records, and the checkpoint. Without ``gold`` no such column exists."""
    corpus = TableDirectory(run.table("corpus").uri)
    columns = {
        schema.RECORD_ID: pa.array([f"r{i:05d}" for i in range(len(texts))], pa.string()),
        schema.TEXT: pa.array(texts, pa.string()),
        schema.SPLIT: ["all"] * len(texts),
        **({schema.GOLD_LABEL: ["positive"] * len(texts)} if gold else {}),
        "year": pa.array([1990 + i % 30 for i in range(len(texts))], pa.int64()),
    }
    table = pa.table(columns)
    parts = [
        corpus.commit_part(f"part-00000-{start // rows_per_part:06d}.parquet", table.slice(start, rows_per_part))
        for start in range(0, max(len(texts), 1), rows_per_part)
    ]
    complete(corpus, "ingest", run.fingerprints["corpus"], parts)
    checkpoint = run.table("checkpoint")
    filesystem, path = open_filesystem(checkpoint.uri)
    filesystem.makedirs(path, exist_ok=True)
    for file in encoder.iterdir():
        filesystem.pipe_file(f"{path}/{file.name}", file.read_bytes())
    complete(checkpoint, "finetune", run.fingerprints["checkpoint"], [])
    return run


def complete(table: TableDirectory, stage: str, fingerprint: str, parts: list[Part]) -> Manifest:
    num = sum(part.num_rows for part in parts)
    return table.write_manifest(
        Manifest(stage=stage, fingerprint=fingerprint, num_in=num, num_kept=num, wall_seconds=0.0, parts=parts)
    )


def filled_run(folder: Path, num_records: int = 50, gold: bool = False, **settings) -> Run:
    """``make_run`` and ``fill`` with ``num_records`` tiny texts."""
    run = make_run(folder, **settings)
    return fill(run, tiny_texts(num_records), folder / "encoder", gold)
