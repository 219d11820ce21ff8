"""Training and test labels of an experiment, from files or from a finished run."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.sampling import Purpose, sampling_hashes
from llambert.annotation.splits import TEST, TRAIN, unused_splits
from llambert.corpora.files import read_columns
from llambert.errors import InputError
from llambert.evaluation.evidence import shot_texts
from llambert.experiments.experiment_recipe import LabelledData, Source
from llambert.run import Run, open_run
from llambert.training.training_set import TrainingSet

_COLUMNS = [schema.RECORD_ID, schema.TEXT, schema.SPLIT, schema.GOLD_LABEL]


@dataclass(frozen=True)
class Labels:
    """The labels that trainings learn from and are evaluated on.

    ``silver`` has the columns of ``schema.SILVER``, its split may be null; ``gold`` and ``test`` have those of a
    corpus, with a gold label on every record. Either of the first two may be absent. ``num_overlapping``: test records
    that were left out, because they or their texts are among the records to learn from.
    """

    categories: list[str]
    silver: pa.Table | None
    gold: pa.Table | None
    test: pa.Table
    num_overlapping: int = 0

    @cached_property
    def test_records(self) -> TrainingSet:
        """The test records as the training core takes them."""
        codes = pc.index_in(self.test[schema.GOLD_LABEL], pa.array(self.categories)).to_numpy().astype(np.int64)
        one_hot = np.eye(len(self.categories), dtype=np.float32)[codes]
        return TrainingSet(self.test[schema.TEXT].to_pylist(), codes, one_hot, np.ones(len(codes), dtype=np.float32))

    @cached_property
    def identities(self) -> dict[str, str]:
        """``gold``, ``silver``, ``silver_extra`` and ``test``, as far as they are there -> a hash of their records."""
        tables = {"gold": self.gold, "test": self.test}
        if self.silver is not None:
            tables |= {"silver": self.silver_of("silver"), "silver_extra": self.silver_of("silver_extra")}
        return {name: _identity(table) for name, table in tables.items() if table is not None}

    def first_learned(self, regime: str) -> pa.Table:
        """The records that a regime learns from first: gold ones, or silver ones."""
        return self.gold_train() if regime == "gold" else self.silver_of(regime)

    def silver_of(self, regime: str) -> pa.Table:
        """The silver records that a regime learns from: never split ``test``; ``silver`` not ``extra`` either."""
        if self.silver is None:
            raise InputError(f"data.silver: regime {regime} needs silver labels, and none are named")
        left_out = pa.array(unused_splits(regime), pa.string())
        return self.silver.filter(pc.invert(pc.is_in(self.silver[schema.SPLIT], left_out)))

    def gold_train(self) -> pa.Table:
        """The gold records that may be learned from."""
        if self.gold is None:
            raise InputError("data.gold: this experiment needs gold labels to learn from, and none are named")
        return self.gold

    def annotator_errors(self) -> tuple[int, int] | None:
        """How many of the records that have both labels the annotator got wrong, and how many these are."""
        if self.silver is None or self.gold is None:
            return None
        num_equal, num = count_equal_labels(self.silver, self.gold)
        return (num - num_equal, num) if num else None


def count_equal_labels(silver: pa.Table, gold: pa.Table) -> tuple[int, int]:
    """How many of the records with both a silver and a gold label have the same in both, and how many these are."""
    known = gold.select([schema.RECORD_ID, schema.GOLD_LABEL]).drop_null()
    both = silver.select([schema.RECORD_ID, schema.LABEL]).join(known, schema.RECORD_ID, join_type="inner")
    return pc.sum(pc.equal(both[schema.LABEL], both[schema.GOLD_LABEL])).as_py() or 0, both.num_rows


def read_labels(data: LabelledData) -> Labels:
    """Read what the experiment names; ``InputError`` if it cannot be read or judged by."""
    silver, gold, test, known = _labels_of_run(data.run) if data.run is not None else _labels_of_files(data)
    remaining = _without_overlap(test, silver, gold)
    num_overlapping = test.num_rows - remaining.num_rows
    # Cells are compared record by record, whatever the order of the file.
    remaining = remaining.sort_by([(name, "ascending") for name in (schema.RECORD_ID, schema.TEXT, schema.GOLD_LABEL)])
    order = sampling_hashes(remaining[schema.RECORD_ID], 0, Purpose.TEST).argsort(kind="stable")
    test = remaining.take(order[: data.num_test])
    found = {
        label
        for table, column in ((silver, schema.LABEL), (gold, schema.GOLD_LABEL), (test, schema.GOLD_LABEL))
        if table is not None
        for label in pc.unique(table[column]).to_pylist()
    }
    categories = list(data.categories) or known or sorted(found)
    if others := sorted(found - set(categories)):
        raise InputError(f"data.categories: the labels {', '.join(others)} are none of {', '.join(categories)}")
    if len(categories) < 2:
        raise InputError(f"data: all labels are {', '.join(categories)!r}; there is nothing to tell apart")
    if test.num_rows == 0:
        raise InputError(
            "data: no record to judge by; a test record needs a text, which is not learned from, and a gold label"
            + (
                f" ({num_overlapping:,} test records have the text or the id of a silver or gold record)"
                if num_overlapping
                else ""
            )
        )
    return Labels(categories, silver, gold, test, num_overlapping)


def _without_overlap(test: pa.Table, silver: pa.Table | None, gold: pa.Table | None) -> pa.Table:
    """The test records of which neither id nor text is among the records that any training may learn from."""
    learned = [] if gold is None else [gold]
    if silver is not None:
        learned.append(silver.filter(pc.invert(pc.is_in(silver[schema.SPLIT], pa.array([TEST])))))
    for column in (schema.RECORD_ID, schema.TEXT):
        for table in learned:
            test = test.filter(pc.invert(pc.is_in(test[column], table[column].combine_chunks())))
    return test


def _labels_of_files(data: LabelledData) -> tuple[pa.Table | None, pa.Table | None, pa.Table, list[str]]:
    assert data.test is not None, "checked when the experiment was read"
    silver = _read(data, data.silver, "silver") if data.silver else None
    if silver is not None:
        nulls = [pa.nulls(len(silver), schema.PROBABILITIES), pa.nulls(len(silver), pa.float64())]
        silver = pa.table([*silver.columns, *nulls], names=schema.SILVER.names)
    gold = _read(data, data.gold, "gold") if data.gold else None
    return silver, gold, _read(data, data.test, "test"), []


def _read(data: LabelledData, source: Source, name: str) -> pa.Table:
    """A file's labelled records with the columns of a corpus."""
    path = source.path if "://" in source.path or os.path.isabs(source.path) else f"{data.folder}/{source.path}"
    columns = [source.record_id, source.text, source.label, *([source.split] if source.split else [])]
    rows = read_columns(path, columns)
    if rows.num_rows == 0:
        raise InputError(f"data.{name}: {path} has no record")
    if missing := [column for column in columns[:3] if rows[column].null_count]:
        raise InputError(f"data.{name}: {path}: rows without {', '.join(missing)}")
    split = rows[source.split] if source.split else pa.nulls(len(rows), pa.string())
    return pa.table([rows[source.record_id], rows[source.text], split, rows[source.label]], names=_COLUMNS)


def _labels_of_run(folder: str) -> tuple[pa.Table, pa.Table, pa.Table, list[str]]:
    """Silver, gold and test records of a finished run, and its categories in their order."""
    run = open_run(str(Path(folder, "recipe.yaml")), [f"storage={folder}"]).last_read()
    silver = run.table("silver").read()
    corpus = _gold_records(run)
    if run.recipe.corpus.columns.split is not None:
        split = corpus[schema.SPLIT]
        gold, test = corpus.filter(pc.equal(split, TRAIN)), corpus.filter(pc.equal(split, TEST))
    else:
        annotated = _ids_in(corpus, silver)
        gold, test = corpus.filter(annotated), corpus.filter(pc.invert(annotated))
        test = test.filter(pc.invert(_ids_in(test, run.table("rejects").read([schema.RECORD_ID]))))
    shots = pa.array(shot_texts(run), pa.string())
    test = test.filter(pc.invert(pc.is_in(pc.utf8_trim_whitespace(test[schema.TEXT]), shots)))
    return silver, gold, test, run.task.category_names


def _gold_records(run: Run) -> pa.Table:
    """Corpus records with a gold label, without duplicates."""
    duplicates = run.table("duplicates").read([schema.RECORD_ID])
    found = []
    for part in run.table("corpus").iter_tables(_COLUMNS):
        is_duplicate = _ids_in(part, duplicates)
        found.append(part.filter(pc.and_(pc.is_valid(part[schema.GOLD_LABEL]), pc.invert(is_duplicate))))
    return pa.concat_tables(found)


def _ids_in(table: pa.Table, other: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(table[schema.RECORD_ID], other[schema.RECORD_ID].combine_chunks())


def _identity(table: pa.Table) -> str:
    """A hash of the records and their labels, regardless of their order in the file."""
    names = [name for name in table.column_names if name != schema.SPLIT]
    rows = sorted(str(tuple(row.values())) for row in table.select(names).to_pylist())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
