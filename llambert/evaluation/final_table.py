"""The table that has the labels users take: ``decisions`` where certify and escalate have decided them."""

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa

from llambert import schema
from llambert.run import Run

DECIDERS = ("classifier", "annotator", "person")
"""Whose label a final one may be."""


def final_table(run: Run) -> Literal["decisions", "labels"]:
    """``decisions`` if the recipe has a guarantee and they are complete; ``labels``, the classifier's, otherwise."""
    if run.recipe.guarantee and run.table("decisions").read_manifest():
        return "decisions"
    return "labels"


def iter_decided(run: Run) -> Iterator[pa.Table]:
    """``schema.DECISIONS`` of each part of that table; of ``labels`` the classifier has decided all."""
    name = final_table(run)
    if name == "decisions":
        yield from run.table(name).iter_tables(schema.DECISIONS.names)
        return
    for rows in run.table(name).iter_tables(schema.LABELS.names):
        by = pa.array([DECIDERS[0]]).take(pa.array([0] * rows.num_rows, pa.int8()))
        yield pa.table([*rows.columns, by, rows[schema.LABEL]], schema=schema.DECISIONS)
