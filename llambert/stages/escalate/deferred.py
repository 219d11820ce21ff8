"""Which records are deferred to the oracle, the least sure first."""

import time

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.annotation.part_names import part_name, rank_range
from llambert.annotation.peoples_answers import PeoplesAnswers
from llambert.evaluation.certified import Certified
from llambert.hashing import hash64
from llambert.recipe import digest
from llambert.run import Run
from llambert.stages.rank_order import in_rank_order
from llambert.stages.undecided import Hashes, codes_of, contains, decided_texts, iter_labelled, iter_texts
from llambert.storage.manifest import Manifest
from llambert.storage.versioned_parts import remove_other_versions

MADE_OF = "deferred_made_of"
NUM_DEFERRED, NUM_LEFT_OUT, LOWEST_LEFT_OUT = "num_deferred", "num_left_out", "lowest_left_out"


def defer(run: Run, certified: Certified) -> Manifest:
    """Write the table ``deferred``: one record of each text whose label may not be kept, from the lowest score up.

    At most ``guarantee.max_records`` of them. Skipped when it is complete, and labels and certificate are the same. Its
    counts: ``num_deferred`` records, copies included, and ``num_left_out`` texts beyond ``max_records``, whose lowest
    score of each category is the measure ``lowest_left_out.<category>``. A text that the classifier was trained on and
    that is not in the sample any more, since the corpus has grown, is deferred too: its answer is stored. Driver
    memory: about 60 bytes a deferred record.
    """
    table, recipe = run.table("deferred"), run.recipe.guarantee
    assert recipe is not None
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names)
    version = _version(run)
    complete = table.read_manifest()
    if complete and complete.upstream.get(MADE_OF) == version:
        remove_other_versions(table, version, lambda: _version(run) == version)
        return complete
    started = time.monotonic()
    rows, num_deferred = _below_threshold(run, certified, _answered_texts(run, people), forgotten_texts(run))
    order = np.lexsort((rows[schema.TEXT_HASH].to_numpy(), rows[schema.SCORE].to_numpy()))
    _, first = np.unique(rows[schema.TEXT_HASH].to_numpy()[order], return_index=True)
    rows = rows.take(pa.array(order[np.sort(first)]))
    kept = rows if recipe.max_records is None else rows.slice(0, recipe.max_records)
    left_out = rows.slice(kept.num_rows)
    ids = kept[schema.RECORD_ID].combine_chunks()
    parts = [
        table.commit_part(part_name(*rank_range(name), version), part)
        for name, part in in_rank_order(
            iter_texts(run, ids), ids, schema.LABELLED_SAMPLE, run.recipe.annotator.records_per_part
        )
    ]
    made = run.complete(
        "deferred",
        parts,
        upstream={MADE_OF: version},
        counts={NUM_DEFERRED: num_deferred, NUM_LEFT_OUT: left_out.num_rows},
        measures=_lowest_scores(left_out),
        wall_seconds=time.monotonic() - started,
    )
    remove_other_versions(table, version, lambda: _version(run) == version)
    return made


def _version(run: Run) -> str:
    """Stands for all that decides who is deferred."""
    assert run.recipe.guarantee is not None
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names).version
    made_of = [run.table(name).require_manifest().content for name in ("labels", "certificate")]
    return digest(*made_of, people if run.recipe.guarantee.oracle == "people" else "")


def _answered_texts(run: Run, people: PeoplesAnswers) -> Hashes:
    """Texts that the oracle has decided, or that it has said fit no category, ascending."""
    assert run.recipe.guarantee is not None
    certification = hash64(run.table("certification").read([schema.TEXT])[schema.TEXT])
    found = [decided_texts(run), certification]
    if run.recipe.guarantee.oracle == "people":
        found.append(np.array(list(people.said), np.uint64))
    return np.unique(np.concatenate(found))


def forgotten_texts(run: Run) -> Hashes:
    """Texts that the classifier learned from the annotator and that are not in the sample; ascending."""
    assert run.recipe.guarantee is not None
    if run.recipe.guarantee.oracle != "annotator":
        return np.zeros(0, np.uint64)
    sampled = np.concatenate([np.zeros(0, np.uint64), *(hash64(t[schema.TEXT]) for t in _sampled(run))])
    return np.setdiff1d(decided_texts(run), sampled)


def _sampled(run: Run) -> list[pa.Table]:
    return list(run.table("sample").iter_tables([schema.TEXT]))


def _below_threshold(run: Run, certified: Certified, answered: Hashes, forgotten: Hashes) -> tuple[pa.Table, int]:
    """Ids, labels, scores and text hashes of the deferred records, and how many records these are."""
    categories, found = run.task.category_names, []
    for _, rows in iter_labelled(run):
        texts, score = (rows[name].to_numpy() for name in (schema.TEXT_HASH, schema.SCORE))
        is_below = ~certified.is_kept(codes_of(rows[schema.LABEL], categories), score, categories)
        is_deferred = (is_below & ~contains(answered, texts)) | contains(forgotten, texts)
        found.append(rows.filter(pa.array(is_deferred)))
    whole = pa.concat_tables(found)
    return whole, whole.num_rows


def _lowest_scores(left_out: pa.Table) -> dict[str, float]:
    """For each category that the classifier gives one of these records, the lowest score."""
    lowest: dict[str, float] = {}
    for label, score in zip(left_out[schema.LABEL].to_pylist(), left_out[schema.SCORE].to_pylist(), strict=True):
        lowest.setdefault(f"{LOWEST_LEFT_OUT}.{label}", score)  # they ascend
    return lowest
