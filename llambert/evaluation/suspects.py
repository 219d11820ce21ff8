"""Silver labels that are probably wrong: those that the classifier, having learned from them, still does not give.

Ranked by the classifier's probability of the other label ("self-confidence" of Northcutt, Jiang & Chuang 2021, J. AI
Research 70, arXiv 1911.00068). Their thresholds of confident learning need probabilities of classifiers that have not
seen the record; the ranking does not. Measured beside cleanlab: DECISIONS.md, "Suspected labels".
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.evaluation.evidence import Evidence
from llambert.evaluation.metrics import Estimate
from llambert.run import Run

_LIST_LENGTHS = (50, 100, 200, 400)


@dataclass(frozen=True)
class Suspects:
    """The suspected silver labels, most suspicious first.

    ``base`` is how many of all silver labels are wrong, ``precision`` how many of the suspected ones, ``first`` how
    many of the first so many: what random picks find against what the list finds. None and empty without gold.
    """

    num: int
    num_silver: int
    by_label: dict[str, int]
    base: Estimate | None
    precision: Estimate | None
    first: dict[int, Estimate]
    rows: pa.Table
    """Columns ``schema.SUSPECTS``."""


def find_suspects(run: Run, evidence: Evidence) -> Suspects:
    """Hold every silver label against the classifier's; reads the silver texts again."""
    records, silver = evidence.records, evidence.silver
    has_label = records.has_label[silver.row]
    differs = has_label & (records.label[silver.row] != silver.label)
    score = records.score[silver.row]
    order = np.flatnonzero(differs)
    order = order[np.argsort(-score[order], kind="stable")]
    rows = silver.row[order]
    names = np.array(evidence.categories, dtype=object)
    texts = run.table("silver").read([schema.RECORD_ID, schema.TEXT, schema.LABEL]).take(order)
    # What was trained on with gold says by itself which silver labels are wrong.
    is_open = records.has_gold & ~records.is_trained_on_gold
    with_gold = is_open[rows]
    wrong = (records.gold[rows] != silver.label[order])[with_gold]
    evaluation = is_open[silver.row] & has_label
    all_wrong = (records.gold[silver.row] != silver.label)[evaluation]
    counts = np.bincount(silver.label[order], minlength=len(names))
    return Suspects(
        num=len(order),
        num_silver=len(silver.row),
        by_label={str(name): int(num) for name, num in zip(names, counts, strict=True)},
        base=Estimate.share(int(all_wrong.sum()), len(all_wrong)) if len(all_wrong) else None,
        precision=Estimate.share(int(wrong.sum()), len(wrong)) if len(wrong) else None,
        first={n: Estimate.share(int(wrong[:n].sum()), n) for n in _LIST_LENGTHS if n <= len(wrong)},
        rows=texts.append_column("suggested_label", pa.array(names[records.label[rows]], pa.string()))
        .append_column(schema.SCORE, pa.array(score[order], pa.float32()))
        .cast(schema.SUSPECTS),
    )
