"""Runs whose corpus of 60 records in three parts is complete, for tests of the sample and of annotate."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from tiny_encoder import save_tiny_encoder

from llambert import schema
from llambert.corpus_recipe import CorpusRecipe
from llambert.recipe import AnnotatorRecipe, ClassifierRecipe, Recipe
from llambert.run import Run
from llambert.run_directory import Manifest, TableDirectory
from llambert.sampling import sampling_hashes
from llambert.tasks import load_task

NUM_RECORDS = 60
TEXTS = ["A moving, beautifully acted film.", "A dull mess.", "Funny and warm.", "It never comes alive."]
IDS = [f"r{i:03d}" for i in range(NUM_RECORDS)]
DUPLICATES = IDS[1:60:12]


def open_run(folder: Path, llm: Path | str, gold: bool = False, parse: dict | None = None, **annotator) -> Run:
    """``annotator``: fields of that section. ``gold``: with splits, a kept column and gold labels."""
    source = folder / "corpus.csv"
    source.write_text("text\n")
    settings = {"mode": "score", "dtype": "float32", "records_per_part": 8, "prompt": "completion", **annotator}
    columns = {"gold_label": "gold", "split": "split", "keep": ("country",)} if gold else {}
    encoder = str(llm) if Path(llm).is_dir() else save_tiny_encoder(folder / "encoder")
    recipe = Recipe(
        name="test",
        task="reviews",
        corpus=CorpusRecipe(path=str(source), columns=columns),
        annotator=AnnotatorRecipe(model=str(llm), **settings),
        parse=parse or {},
        classifier=ClassifierRecipe(model=encoder),
        storage=str(folder / "run"),
    )
    run = Run(recipe, load_task("reviews"))
    if run.table("corpus").read_manifest() is None:
        _fill_corpus(run, gold)
    return run


def _fill_corpus(run: Run, gold: bool) -> None:
    # Without gold there is no such column at all: a stage that reads it fails.
    corpus = TableDirectory(run.table("corpus").uri)
    columns = {
        schema.RECORD_ID: IDS,
        schema.TEXT: [f"{TEXTS[i % 4]} Number {i}." for i in range(NUM_RECORDS)],
        schema.SPLIT: ["test" if gold and i % 3 == 0 else "train" if gold else "all" for i in range(NUM_RECORDS)],
    }
    if gold:
        columns[schema.GOLD_LABEL] = [None if i % 5 == 4 else ("negative", "positive")[i % 2] for i in range(60)]
        columns["country"] = [None if i < 6 else "fr" if i < 24 else "us" for i in range(60)]
    table = pa.table(columns)
    parts = [corpus.commit_part(f"part-{n}.parquet", table.slice(20 * n, 20)) for n in range(3)]
    corpus.write_manifest(_manifest("ingest", parts))
    duplicates = run.table("duplicates")
    rows = pa.table({schema.RECORD_ID: DUPLICATES, schema.DUPLICATE_OF: ["r000"] * 5}, schema=schema.DUPLICATES)
    duplicates.write_manifest(_manifest("duplicates", [duplicates.commit_part("part-0.parquet", rows)]))


def _manifest(stage: str, parts: list) -> Manifest:
    num = sum(part.num_rows for part in parts)
    return Manifest(stage=stage, fingerprint="f", num_in=num, num_kept=num, wall_seconds=0.0, parts=parts)


def eligible_in_hash_order() -> list[str]:
    """Ids that are no duplicates, in the order of a uniform sample with seed 0."""
    ids = [record_id for record_id in IDS if record_id not in DUPLICATES]
    return [ids[i] for i in np.argsort(sampling_hashes(ids, 0))]


def probabilities(table: pa.Table) -> np.ndarray:
    """Raw label probabilities of responses, (records, categories)."""
    rows = table[schema.LABEL_PROBABILITIES].to_pylist()
    return np.array([[entry["probability"] for entry in row] for row in rows])
