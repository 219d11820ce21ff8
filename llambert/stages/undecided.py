"""Which labelled records the oracle of a guarantee has decided before certify and escalate ask it about others."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llambert import schema
from llambert.errors import InputError
from llambert.guarantee_recipe import GuaranteeRecipe
from llambert.hashing import hash64
from llambert.run import Run
from llambert.storage.manifest import Part

Hashes = NDArray[np.uint64]


def require_guarantee(run: Run) -> GuaranteeRecipe:
    """The recipe's section; ``InputError`` if it has none."""
    if run.recipe.guarantee is None:
        raise InputError(
            "guarantee: the recipe has no such section, so there is nothing to certify or to escalate; add it"
        )
    return run.recipe.guarantee


def decided_texts(run: Run) -> Hashes:
    """Hashes of the texts that the oracle decided before the classifier was trained, ascending.

    Those that the annotator was asked about, in this generation of the corpus or when the classifier was trained; with
    people, those whose gold labels it was trained on. So no text that training has seen is in a certification sample.
    """
    assert run.recipe.guarantee is not None
    learned = run.table("learned").read([schema.TEXT_HASH, schema.LABELS_OF])
    labels_of = "silver" if run.recipe.guarantee.oracle == "annotator" else "gold"
    found = [learned.filter(pc.equal(learned[schema.LABELS_OF], labels_of))[schema.TEXT_HASH].to_numpy()]
    if run.recipe.guarantee.oracle == "annotator":
        found += [hash64(rows[schema.TEXT]) for rows in run.table("sample").iter_tables([schema.TEXT])]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))


def contains(hashes: Hashes, wanted: Hashes) -> NDArray[np.bool_]:
    """Which of ``wanted`` are among ``hashes``, which ascend."""
    if not len(hashes):
        return np.zeros(len(wanted), bool)
    return np.asarray(hashes[np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)] == wanted)


def iter_labelled(run: Run) -> Iterator[tuple[Part, pa.Table]]:
    """Each part of ``labels`` with its ids, labels, scores and text hashes, row for row."""
    for part in run.table("labels").require_manifest().parts:
        yield part, labelled_part(run, part.name)


def labelled_part(run: Run, name: str, columns: list[str] | None = None) -> pa.Table:
    """One part of ``labels`` and the hash of each record's text; ``columns``: of ``labels``, by default its own."""
    rows = run.table("labels").read_part(name, columns or schema.LABELS.names)
    keys = run.table("corpus_keys").read_part(name)
    ids, texts = (keys[column].to_numpy() for column in (schema.RECORD_ID_HASH, schema.TEXT_HASH))
    order = np.argsort(ids)
    places = order[np.minimum(np.searchsorted(ids, hash64(rows[schema.RECORD_ID]), sorter=order), len(ids) - 1)]
    return rows.append_column(schema.TEXT_HASH, pa.array(texts[places], pa.uint64()))


def iter_texts(run: Run, record_ids: pa.Array) -> Iterator[pa.Table]:
    """``schema.LABELLED_SAMPLE`` of the records with these ids, in the order of the corpus; reads no other texts."""
    labels, corpus = run.table("labels"), run.table("corpus")
    for part in labels.require_manifest().parts:
        rows = labels.read_part(part.name, schema.LABELS.names)
        rows = rows.filter(pc.is_in(rows[schema.RECORD_ID], value_set=record_ids))
        if rows.num_rows:
            texts = corpus.read_part(part.name, schema.SAMPLE.names)
            place = pc.index_in(rows[schema.RECORD_ID], value_set=texts[schema.RECORD_ID].combine_chunks())
            columns = {**dict(zip(texts.column_names, texts.take(place).columns, strict=True))}
            columns |= {name: rows[name] for name in (schema.LABEL, schema.SCORE)}
            yield pa.table(columns).select(schema.LABELLED_SAMPLE.names).cast(schema.LABELLED_SAMPLE)


def codes_of(labels: pa.ChunkedArray, categories: list[str]) -> NDArray[np.int64]:
    """Labels as their places among ``categories``."""
    return np.asarray(pc.index_in(labels, value_set=pa.array(categories, labels.type))).astype(np.int64)
