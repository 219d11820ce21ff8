"""The certification sample: uniform among the labelled records that the oracle has not decided."""

import time
from collections import Counter

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.annotation.part_names import part_name, rank_range
from llambert.annotation.sampling import Purpose, Selection
from llambert.errors import InputError
from llambert.evaluation.guarantee import Population, Promise, max_wrong
from llambert.evaluation.sample_sizes import smallest_sample
from llambert.hashing import hash64
from llambert.run import Run
from llambert.stages.rank_order import in_rank_order
from llambert.stages.undecided import contains, decided_texts, iter_labelled, iter_texts
from llambert.storage.manifest import Manifest
from llambert.storage.versioned_parts import remove_other_versions

MADE_OF = "labels_content"
NUM_RECORDS, NUM_UNDECIDED = "num_records", "num_undecided"


def promise_of(run: Run) -> Promise:
    """What the recipe promises; the sampled records take the oracle's answers."""
    assert run.recipe.guarantee is not None
    return Promise(run.recipe.guarantee.target, run.recipe.guarantee.confidence, answers_replace=True)


def draw(run: Run) -> Manifest:
    """Write the table ``certification`` in the order of the sampling hashes; skipped when it is of the same labels.

    Copies of a text are records like any other, so that the sample is uniform over what the promise counts. Its counts:
    ``num_records`` and ``num_undecided``, of all categories that the classifier gives and of each (``.<category>``).
    ``InputError`` where it is too small for any promise. Two passes over labels and keys; driver memory: the hashes of
    the decided texts and the sample.
    """
    table, recipe = run.table("certification"), run.recipe.guarantee
    assert recipe is not None
    version, complete = run.table("labels").require_manifest().content, table.read_manifest()
    if complete and complete.upstream.get(MADE_OF) == version:
        remove_other_versions(table, version, lambda: run.table("labels").require_manifest().content == version)
        return complete
    started = time.monotonic()
    num_wanted = recipe.num_to_certify(run.table("labels").require_manifest().num_kept)
    decided, selection = decided_texts(run), Selection.empty()
    num_records: Counter[str] = Counter()
    num_undecided: Counter[str] = Counter()
    for _, rows in iter_labelled(run):
        is_open = ~contains(decided, rows[schema.TEXT_HASH].to_numpy())
        undecided = rows.filter(pa.array(is_open))
        num_records.update(rows[schema.LABEL].to_pylist())
        num_undecided.update(undecided[schema.LABEL].to_pylist())
        ids = undecided[schema.RECORD_ID]
        smallest = Selection.smallest(ids, num_wanted, recipe.seed, Purpose.CERTIFICATION)
        selection = selection.merge(smallest, num_wanted)
    population = Population(num_records.total(), num_undecided.total())
    check_size(population, len(selection), promise_of(run))
    parts = [
        table.commit_part(part_name(*rank_range(name), version), rows)
        for name, rows in in_rank_order(
            iter_texts(run, selection.record_ids),
            selection.record_ids,
            schema.LABELLED_SAMPLE,
            run.recipe.annotator.records_per_part,
        )
    ]
    counts = {NUM_RECORDS: population.num_records, NUM_UNDECIDED: population.num_undecided}
    for name in run.task.category_names:
        counts |= {f"{NUM_RECORDS}.{name}": num_records[name], f"{NUM_UNDECIDED}.{name}": num_undecided[name]}
    made = run.complete(
        "certification",
        parts,
        {"not_sampled": population.num_records - len(selection)},
        {MADE_OF: version},
        num_in=population.num_records,
        counts=counts,
        wall_seconds=time.monotonic() - started,
    )
    remove_other_versions(table, version, lambda: run.table("labels").require_manifest().content == version)
    return made


def check_before_annotation(run: Run) -> None:
    """``InputError`` if no answers to ``certify_records`` could keep the promise; called before any is paid for.

    Needs the complete ``sample``. What a checkpoint of an earlier generation of the corpus learned is not known yet, so
    that a sample which is a few records too small may pass here, or one that is just large enough be refused. ``draw``
    checks too; it alone where the gold labels that training learns decide, for people. One pass over the keys of the
    corpus.
    """
    recipe = run.recipe.guarantee
    if recipe is None or run.table("responses").read_manifest() is not None:
        return
    decided = np.zeros(0, np.uint64)
    if recipe.oracle == "annotator":
        texts = run.table("sample").iter_tables([schema.TEXT])
        decided = np.unique(np.concatenate([decided, *(hash64(rows[schema.TEXT]) for rows in texts)]))
    elif run.recipe.classifier.learns_gold:
        return
    num_records = num_undecided = 0
    for rows in run.table("corpus_keys").iter_tables([schema.TEXT_HASH]):
        num_records += rows.num_rows
        num_undecided += int((~contains(decided, rows[schema.TEXT_HASH].to_numpy())).sum())
    check_size(Population(num_records, num_undecided), recipe.num_to_certify(num_records), promise_of(run))


def check_size(population: Population, num_sampled: int, promise: Promise) -> None:
    """``InputError`` if no answers to so many sampled records could show that the promise is kept."""
    num_sampled = min(num_sampled, population.num_undecided)
    if max_wrong(population, num_sampled, promise) >= 0:
        return
    fewest = smallest_sample(population, promise)
    raise InputError(
        f"guarantee.certify_records: {num_sampled:,} records cannot show that {promise.target:g} of the labels are "
        f"right with probability {promise.confidence:g}, whatever the answers are: {fewest:,} can if every label is "
        "right, and several times as many keep more labels"
    )


def populations_of(drawn: Manifest, categories: list[str]) -> list[Population]:
    """Of each category that the classifier gives: its records, and those the oracle had not decided."""
    return [
        Population(drawn.counts[f"{NUM_RECORDS}.{name}"], drawn.counts[f"{NUM_UNDECIDED}.{name}"])
        for name in categories
    ]


def read_sample(run: Run) -> pa.Table:
    """The certification sample in its order (``schema.LABELLED_SAMPLE``)."""
    rows = run.table("certification").read()
    assert np.asarray(rows[schema.SCORE]).dtype == np.float32
    return rows
