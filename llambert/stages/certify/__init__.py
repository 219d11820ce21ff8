"""Certify: from which score on the classifier's labels may be kept, so that the recipe's guarantee holds.

A uniform sample of the records that the oracle has not decided (``draw.py``) is decided by it: by the annotator, asked
as in annotate, or by people, whose answers ``llambert review import --save`` has stored. What follows from the answers
is computed in ``evaluation/guarantee.py``. No record that training has seen is in the sample, and no sample that failed
is enlarged and tested again, since both would break the promise.
"""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llambert import schema
from llambert.annotation.peoples_answers import PeoplesAnswers
from llambert.annotation.responses import RESPONSES_VERSION, answers_version, iter_answers
from llambert.errors import InputError
from llambert.evaluation.certified import ALL, ESCALATES, NUM_TRIES, NUM_UNUSABLE, Certified
from llambert.evaluation.evidence import learned_texts
from llambert.evaluation.guarantee import Population, certify_categories
from llambert.evaluation.guarantee import certify as certify_all
from llambert.evaluation.guaranteed import num_unanswered
from llambert.evaluation.judges import Judges
from llambert.execution import Executor
from llambert.execution.ray_executor import RAY
from llambert.hashing import hash64
from llambert.recipe import digest
from llambert.run import Run
from llambert.stages.asking import ask
from llambert.stages.certify.draw import (
    MADE_OF,
    NUM_RECORDS,
    NUM_UNDECIDED,
    draw,
    populations_of,
    promise_of,
    read_sample,
)
from llambert.stages.response_parser import RESPONSE_COLUMNS, ResponseParser
from llambert.stages.undecided import Hashes, codes_of, contains, require_guarantee
from llambert.storage.locations import names_in
from llambert.storage.manifest import Manifest
from llambert.storage.versioned_parts import remove_other_versions, versioned


def check(run: Run) -> None:
    """Refuse a guarantee that cannot be given with this recipe."""
    if run.recipe.guarantee is not None and run.recipe.annotator.stratify_by is not None:
        raise InputError(
            "annotator.stratify_by: a guarantee needs uniform samples, and this one is stratified; remove stratify_by, "
            "or the section guarantee"
        )


def certify(run: Run, executor: Executor = RAY) -> Manifest | None:
    """Write the table ``certificate``; skipped when it is complete and no answer has changed since.

    None while people have not answered the whole sample; a line says how many answers are missing. ``InputError`` if
    the recipe has no ``guarantee``.
    """
    recipe = require_guarantee(run)
    check(run)
    drawn = draw(run)
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names)
    started = time.monotonic()
    if recipe.oracle == "annotator":
        ask(run, "certification_responses", executor)
    elif missing := num_unanswered(run):
        print(
            f"certify: {missing:,} texts of the certification sample ({drawn.num_kept:,} records) have no answer of "
            "people yet: `llambert review export --certify`, then `llambert review import --save`, then start again",
            flush=True,
        )
        return None
    version = _version(run, drawn)
    table = run.table("certificate")
    complete = table.read_manifest()
    if complete and complete.upstream.get(RESPONSES_VERSION) == version:
        remove_other_versions(table, version, lambda: _version(run, drawn) == version)
        return complete
    sample = read_sample(run)
    labels, reasons = _oracles_labels(run, sample, people)
    said, _ = people.find(hash64(sample[schema.TEXT]))
    gold = pc.coalesce(_gold_of(run, sample[schema.RECORD_ID]), pa.array(said, pa.string()))
    rows = pa.table([*(sample[name] for name in schema.LABELS.names), labels, reasons, gold], schema=schema.CERTIFICATE)
    certified = _certify(run, drawn, rows)
    counts, measures = certified.figures()
    judges = _compare(run, executor, certified, rows, hash64(sample[schema.TEXT]))
    counts |= {ESCALATES: int(judges.escalates(recipe.escalate, recipe.oracle)), **judges.counts}
    counts |= {NUM_UNUSABLE: labels.count(None), NUM_TRIES: 1 + _num_other_certificates(run, drawn)}
    made = run.complete(
        "certificate",
        [table.commit_part(versioned("part-0.parquet", version), rows)],
        upstream={RESPONSES_VERSION: version, MADE_OF: drawn.upstream[MADE_OF]},
        counts=counts,
        measures={**measures, **judges.measures},
        wall_seconds=time.monotonic() - started,
    )
    remove_other_versions(table, version, lambda: _version(run, drawn) == version)
    print(f"certify: {describe(certified, judges)}", flush=True)
    if (num := counts[NUM_TRIES]) > 1:
        print(f"certify: {num:,} certificates were made of these labels; the best of them promises less", flush=True)
    return made


def describe(certified: Certified, judges: Judges) -> str:
    """What was found, in a line."""
    kept = sum(each.num_kept for each in certified.certificates.values())
    return f"{kept:,} of {certified.num_sampled:,} sampled records may keep their label; {judges.sentence}"


def _num_other_certificates(run: Run, drawn: Manifest) -> int:
    """Certificates that were made of the same labels with other settings: whoever chooses among them tests again."""
    num = 0
    for fingerprint in sorted(names_in(f"{run.directory.uri.rstrip('/')}/certificate")):
        if fingerprint != run.table("certificate").fingerprint:
            other = run.directory.table("certificate", fingerprint).read_manifest()
            num += other is not None and other.upstream.get(MADE_OF) == drawn.upstream[MADE_OF]
    return num


def _version(run: Run, drawn: Manifest) -> str:
    """Stands for the sample, with the classifier's labels, and all the answers that the certificate rests on."""
    assert run.recipe.guarantee is not None
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names)
    asked = [answers_version(run.table(name).read_manifest()) for name in ("certification_responses", "responses")]
    return digest(drawn.content, people.version, *(asked if run.recipe.guarantee.oracle == "annotator" else []))


def _oracles_labels(run: Run, sample: pa.Table, people: PeoplesAnswers) -> tuple[list[str | None], list[str | None]]:
    """Of each sampled record the oracle's label, or None and why it has none."""
    assert run.recipe.guarantee is not None
    if run.recipe.guarantee.oracle == "people":
        return people.find(hash64(sample[schema.TEXT]))
    return annotators_labels(run, "certification_responses")


def annotators_labels(run: Run, name: str) -> tuple[list[str | None], list[str | None]]:
    """The labels that the responses ``name`` are read as, in their order, or None and why."""
    parser = ResponseParser(run)
    labels: list[str | None] = []
    reasons: list[str | None] = []
    for _, responses in iter_answers(run.table, RESPONSE_COLUMNS, name):
        found, why = parser.labels(responses)
        labels += found
        reasons += why
    return labels, reasons


def _gold_of(run: Run, record_ids: pa.ChunkedArray) -> pa.Array:
    """The gold label of each record; null where the corpus has none."""
    found: dict[str, Any] = {}
    for rows in run.table("corpus").iter_tables([schema.RECORD_ID, schema.GOLD_LABEL]):
        chosen = rows.filter(pc.is_in(rows[schema.RECORD_ID], value_set=record_ids.combine_chunks()))
        found |= dict(zip(*(column.to_pylist() for column in chosen.columns), strict=True))
    return pa.array([found.get(record_id) for record_id in record_ids.to_pylist()], pa.string())


def _certify(run: Run, drawn: Manifest, rows: pa.Table) -> Certified:
    assert run.recipe.guarantee is not None
    promise, categories = promise_of(run), run.task.category_names
    score = rows[schema.SCORE].to_numpy().astype(np.float32)
    is_wrong = np.asarray(pc.fill_null(pc.not_equal(rows[schema.LABEL], rows[schema.ORACLE_LABEL]), True))
    if not run.recipe.guarantee.per_category:
        population = Population(drawn.counts[NUM_RECORDS], drawn.counts[NUM_UNDECIDED])
        return Certified(promise, {ALL: population}, {ALL: certify_all(population, score, is_wrong, promise)})
    populations = populations_of(drawn, categories)
    codes = codes_of(rows[schema.LABEL], categories)
    certificates = certify_categories(populations, codes, score, is_wrong, promise)
    return Certified(
        promise, dict(zip(categories, populations, strict=True)), dict(zip(categories, certificates, strict=True))
    )


def _compare(run: Run, executor: Executor, certified: Certified, rows: pa.Table, texts: NDArray[np.uint64]) -> Judges:
    """Annotator and classifier on the sampled records below the threshold whose gold label is known.

    ``texts``: the hashes of their texts. Those whose gold label one of the two was given tell nothing.
    """
    recipe, categories = run.recipe.guarantee, run.task.category_names
    assert recipe is not None
    score = rows[schema.SCORE].to_numpy().astype(np.float32)
    is_below = ~certified.is_kept(codes_of(rows[schema.LABEL], categories), score, categories)
    oracle, gold = (rows[name].to_pylist() for name in (schema.ORACLE_LABEL, schema.GOLD_LABEL))
    annotator = oracle
    if recipe.oracle == "people":
        gold = oracle
        if recipe.escalate != "auto" or not is_below.any():
            return Judges.unknown()
        ask(run, "certification_responses", executor)
        annotator, _ = annotators_labels(run, "certification_responses")
    known = np.array([label is not None for label in gold], bool) & is_below & ~contains(_given_away(run), texts)
    places = np.flatnonzero(known).tolist()
    classifier = rows[schema.LABEL].to_pylist()
    return Judges.compare(
        np.array([annotator[row] == gold[row] for row in places], bool),
        np.array([classifier[row] == gold[row] for row in places], bool),
    )


def _given_away(run: Run) -> Hashes:
    """Texts whose gold label the classifier was trained on or the annotator was shown; ascending."""
    _, trained = learned_texts(run)
    shown = run.table("shots").read([schema.TEXT])[schema.TEXT] if run.recipe.annotator.gold_shots else []
    return np.unique(np.concatenate([trained, hash64(shown)]))
