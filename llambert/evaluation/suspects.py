"""Silver labels that are probably wrong: those that the classifier, which learned from most, does not reproduce.

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

    ``base_rate``: share of all silver labels that are wrong; ``precision``: of the suspected ones; ``precision_at``: of
    the first n suspects, by n. None and empty without gold.
    """

    num: int
    num_silver: int
    by_label: dict[str, int]
    base_rate: Estimate | None
    precision: Estimate | None
    precision_at: dict[int, Estimate]
    rows: pa.Table
    """Columns ``schema.SUSPECTS``."""


def find_suspects(run: Run, evidence: Evidence) -> Suspects:
    """Compare every silver label with the classifier's; reads the silver texts again."""
    records, silver = evidence.records, evidence.silver
    has_label = records.has_label[silver.row]
    differs = has_label & (records.label[silver.row] != silver.label)
    score = records.score[silver.row]
    order = np.flatnonzero(differs)
    order = order[np.argsort(-score[order], kind="stable")]
    rows = silver.row[order]
    names = np.array(evidence.categories, dtype=object)
    texts = run.table("silver").read([schema.RECORD_ID, schema.TEXT, schema.LABEL]).take(order)
    # Records that were trained on with their gold label would bias the figures, and so would those given away.
    is_usable = records.judges_annotator & ~records.is_trained_on_gold
    with_gold = is_usable[rows]
    wrong = (records.gold[rows] != silver.label[order])[with_gold]
    all_wrong = (records.gold[silver.row] != silver.label)[is_usable[silver.row] & has_label]
    counts = np.bincount(silver.label[order], minlength=len(names))
    return Suspects(
        num=len(order),
        num_silver=len(silver.row),
        by_label={str(name): int(num) for name, num in zip(names, counts, strict=True)},
        base_rate=Estimate.share(int(all_wrong.sum()), len(all_wrong)) if len(all_wrong) else None,
        precision=Estimate.share(int(wrong.sum()), len(wrong)) if len(wrong) else None,
        precision_at={n: Estimate.share(int(wrong[:n].sum()), n) for n in _LIST_LENGTHS if n <= len(wrong)},
        rows=texts.append_column("suggested_label", pa.array(names[records.label[rows]], pa.string()))
        .append_column(schema.SCORE, pa.array(score[order], pa.float32()))
        .cast(schema.SUSPECTS),
    )
