"""A finished run's tables as aligned arrays, read part by part: what every figure of the report is computed from.

Texts are read for their length and dropped; what is held of a record is some 50 bytes, and sorting takes as much
again. Measured: 500,000 records, all with gold, in two parts: 3.5 s and 421 MiB for the whole report.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llambert import schema
from llambert.annotation.responses import iter_answers
from llambert.annotation.splits import TRAIN, is_sampled
from llambert.errors import InputError
from llambert.hashing import hash64
from llambert.run import Run
from llambert.storage.run_directory import Manifest, TableDirectory

Mask = NDArray[np.bool_]
Codes = NDArray[np.int16]
TRAINING_RECORD = "training_record.json"


@dataclass(frozen=True)
class Records:
    """The corpus, one entry a record in corpus order; category codes in task order, valid where their mask is set."""

    gold: Codes
    has_gold: Mask
    """The first record with a text has, if it has no gold label itself, that of the first copy that has one."""
    num_gold: int
    """Records that have a gold label themselves."""
    label: Codes
    has_label: Mask
    score: NDArray[np.float32]
    num_chars: NDArray[np.int32]
    split: NDArray[np.int16]
    splits: list[str]
    is_sampled: Mask
    """Of the splits that the sample was drawn from."""
    is_annotated: Mask
    """In the sample the annotator was asked about, answered or not."""
    is_duplicate: Mask
    is_trained_on_gold: Mask
    """The gold label of a record with this text may have been learned from: no judge of the classifier any more."""
    is_seen: Mask
    """A record with this text was annotated, shown to the annotator as a shot, or trained on with its gold label."""
    is_evaluated: Mask
    """Labelled, with gold, each text once: the first copy that has both."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def is_unseen(self) -> Mask:
        """Judged, and neither the annotator nor the classifier's training saw its text."""
        return self.is_evaluated & ~self.is_seen


@dataclass(frozen=True)
class Silver:
    """The silver labels, one entry each. ``row`` is the record's place in ``Records``."""

    row: NDArray[np.int64]
    label: Codes
    confidence: NDArray[np.float64] | None
    """None unless every silver label has one."""
    raw_label: Codes | None
    """The most probable category before prior correction; None unless every response has probabilities."""


@dataclass(frozen=True)
class Rejects:
    """Annotated records without a usable answer."""

    row: NDArray[np.int64]
    reason: list[str]


@dataclass(frozen=True)
class Answers:
    """What the annotator was asked and answered, counted over the sampled records."""

    num: int
    num_prompt_tokens: int
    num_response_tokens: int
    num_truncated: int
    finish_reasons: dict[str, int]
    models: list[str]
    prompt: str | None
    """One prompt as the model read it, and its response."""
    response: str | None


@dataclass(frozen=True)
class Evidence:
    """Everything the report says is computed from this."""

    categories: list[str]
    manifests: dict[str, Manifest]
    """By table, in the order of the method."""
    records: Records
    silver: Silver
    rejects: Rejects
    answers: Answers
    training_record: dict[str, Any]


def read_evidence(run: Run) -> Evidence:
    """Read a run whose stages are all complete; ``InputError`` naming the table that is not."""
    manifests = {name: run.table(name).require_manifest() for name in run.tables.upstream("report", run.recipe)}
    categories = run.task.category_names
    answers, annotated, raw = _read_answers(run, categories)
    records, annotated_in_order = _read_records(run, categories, np.sort(annotated))
    rows_by_hash = _Rows(annotated_in_order, np.flatnonzero(records.is_annotated))
    return Evidence(
        categories=categories,
        manifests=manifests,
        records=records,
        silver=_read_silver(run, categories, rows_by_hash, raw),
        rejects=_read_rejects(run, rows_by_hash),
        answers=answers,
        training_record=_read_training_record(run),
    )


class _Rows:
    """Record hash -> place in the corpus, for the annotated records."""

    def __init__(self, hashes: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        order = np.argsort(hashes)
        self._hashes, self._rows = hashes[order], rows[order]

    def of(self, table: TableDirectory, ids: pa.ChunkedArray) -> NDArray[np.int64]:
        """The rows of the records ``ids`` names; every one must have been annotated."""
        hashes = hash64(ids)
        found, places = _find(self._hashes, hashes)
        if not found.all():
            unknown = ids[int(np.flatnonzero(~found)[0])].as_py()
            raise InputError(f"{table.uri}: record {unknown!r} was never annotated; `llambert verify` says more")
        return self._rows[places]


def _read_records(run: Run, categories: list[str], annotated: NDArray) -> tuple[Records, NDArray[np.uint64]]:
    """The corpus with its labels, and the id hashes of its annotated records in corpus order."""
    label_hashes, label_codes, scores = _read_labels(run, categories)
    duplicates, first_copies = _read_duplicates(run)
    shots = pa.array(_shot_texts(run), pa.string())
    columns: dict[str, list[NDArray]] = {}
    splits: dict[str, int] = {}
    wanted = [schema.RECORD_ID, schema.TEXT, schema.SPLIT, schema.GOLD_LABEL]
    learns_gold = run.recipe.classifier.learns_gold
    for table in run.table("corpus").iter_tables(wanted):
        hashes = hash64(table[schema.RECORD_ID])
        gold, has_gold = _codes(table[schema.GOLD_LABEL], categories)
        has_label, places = _find(label_hashes, hashes)
        is_annotated, _ = _find(annotated, hashes)
        is_duplicate, copies = _find(duplicates, hashes)
        is_trained = has_gold & np.asarray(pc.equal(table[schema.SPLIT], TRAIN)) & learns_gold
        is_shot = np.asarray(pc.is_in(pc.utf8_trim_whitespace(table[schema.TEXT]), value_set=shots))
        part = {
            "gold": gold,
            "has_gold": has_gold,
            "label": label_codes[places] if len(label_codes) else np.zeros(len(hashes), np.int16),
            "has_label": has_label,
            "score": scores[places] if len(scores) else np.zeros(len(hashes), np.float32),
            "num_chars": pc.utf8_length(table[schema.TEXT]).to_numpy().astype(np.int32),
            "split": _split_codes(table[schema.SPLIT], splits),
            "is_sampled": np.asarray(is_sampled(run.recipe, table[schema.SPLIT])),
            "is_annotated": is_annotated,
            "is_duplicate": is_duplicate,
            "is_trained_on_gold": is_trained,
            "is_seen": is_annotated | is_trained | is_shot,
            "first_copy": np.where(is_duplicate, first_copies[copies], hashes) if len(duplicates) else hashes,
        }
        for name, values in part.items():
            columns.setdefault(name, []).append(values)
        columns.setdefault("hashes", []).append(hashes[is_annotated])
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    annotated_hashes, first_copy = whole.pop("hashes"), whole.pop("first_copy")
    for name in ("is_trained_on_gold", "is_seen"):  # what is true of one copy of a text is true of all
        whole[name] = np.isin(first_copy, first_copy[whole[name]])
    whole["is_judged"] = _one_per_text(whole["has_gold"] & whole["has_label"], whole["is_duplicate"], first_copy)
    num_gold = int(whole["has_gold"].sum())
    _share_gold_among_copies(whole, first_copy)
    return Records(splits=list(splits), num_gold=num_gold, **whole), annotated_hashes


def _one_per_text(chosen: Mask, is_duplicate: Mask, first_copy: NDArray[np.uint64]) -> Mask:
    """Of the chosen records one for each text: that which is no duplicate, or else the first duplicate."""
    once = chosen & ~is_duplicate
    places = np.flatnonzero(chosen & ~np.isin(first_copy, first_copy[once]))
    once[places[np.unique(first_copy[places], return_index=True)[1]]] = True
    return once


def _share_gold_among_copies(whole: dict[str, NDArray], first_copy: NDArray[np.uint64]) -> None:
    """Give the first record of a text, which is the one that is annotated, the gold label of a copy if it has none."""
    is_duplicate, has_gold = whole["is_duplicate"], whole["has_gold"]
    lenders = np.flatnonzero(_one_per_text(has_gold, is_duplicate, first_copy) & is_duplicate)
    lenders = lenders[np.argsort(first_copy[lenders])]
    firsts = np.flatnonzero(~is_duplicate & ~has_gold)
    found, places = _find(first_copy[lenders], first_copy[firsts])
    whole["gold"][firsts[found]] = whole["gold"][lenders[places[found]]] if len(lenders) else 0
    has_gold[firsts[found]] = True


def _read_labels(run: Run, categories: list[str]) -> tuple[NDArray[np.uint64], Codes, NDArray[np.float32]]:
    """Id hashes in ascending order, and each one's label and score."""
    hashes, codes, scores = [np.empty(0, np.uint64)], [np.empty(0, np.int16)], [np.empty(0, np.float32)]
    labels = run.table("labels")
    for table in labels.iter_tables([schema.RECORD_ID, schema.LABEL, schema.SCORE]):
        part, known = _codes(table[schema.LABEL], categories)
        if not known.all():
            unknown = table[schema.LABEL][int(np.flatnonzero(~known)[0])].as_py()
            raise InputError(f"{labels.uri}: label {unknown!r} is no category of the task ({', '.join(categories)})")
        hashes.append(hash64(table[schema.RECORD_ID]))
        codes.append(part)
        scores.append(table[schema.SCORE].to_numpy())
    joined = np.concatenate(hashes)
    order = np.argsort(joined)
    return joined[order], np.concatenate(codes)[order], np.concatenate(scores)[order]


def _read_answers(
    run: Run, categories: list[str]
) -> tuple[Answers, NDArray[np.uint64], tuple[NDArray[np.uint64], Codes] | None]:
    """What the annotator answered, the id hashes of the records it was asked about, and the raw labels.

    Raw labels are the most probable categories before prior correction, with their hashes in ascending order.
    """
    totals: Counter[str] = Counter()
    finish_reasons: Counter[str] = Counter()
    models: dict[str, None] = {}
    shown: tuple[str, str | None] | None = None
    annotated, hashes, raw = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], [np.empty(0, np.int16)]
    for table in _first_rows(run.table("responses"), run.recipe.annotator.num_records):
        annotated.append(hash64(table[schema.RECORD_ID]))
        for column in (schema.NUM_PROMPT_TOKENS, schema.NUM_RESPONSE_TOKENS):
            totals[column] += pc.sum(table[column]).as_py()
        totals["num_truncated"] += pc.sum(pc.greater(table[schema.NUM_TRUNCATED_TOKENS], 0)).as_py()
        finish_reasons.update(table[schema.FINISH_REASON].to_pylist())
        models.update(dict.fromkeys(table[schema.MODEL].unique().to_pylist()))
        if shown is None:
            shown = (table[schema.PROMPT][0].as_py(), table[schema.RESPONSE][0].as_py())
        probabilities = schema.decode_probabilities(table[schema.LABEL_PROBABILITIES], categories)
        has_best = probabilities.sum(axis=1) > 0
        hashes.append(annotated[-1][has_best])
        raw.append(probabilities[has_best].argmax(axis=1).astype(np.int16))
    asked, joined = np.concatenate(annotated), np.concatenate(hashes)
    answers = Answers(
        num=len(asked),
        num_prompt_tokens=totals[schema.NUM_PROMPT_TOKENS],
        num_response_tokens=totals[schema.NUM_RESPONSE_TOKENS],
        num_truncated=totals["num_truncated"],
        finish_reasons=dict(finish_reasons.most_common()),
        models=list(models),
        prompt=shown[0] if shown else None,
        response=shown[1] if shown else None,
    )
    order = np.argsort(joined)
    return answers, asked, (joined[order], np.concatenate(raw)[order]) if len(joined) else None


def _first_rows(responses: TableDirectory, num: int) -> Iterator[pa.Table]:
    """The first ``num`` responses, without texts: the table may hold those of a larger sample, in sampling order."""
    columns = [name for name in schema.RESPONSES.names if name != schema.TEXT]
    for _, table in iter_answers(responses, columns):
        if table.num_rows and num > 0:
            yield table.slice(0, num)
        num -= table.num_rows


def _read_silver(run: Run, categories: list[str], rows: _Rows, raw: tuple[NDArray[np.uint64], Codes] | None) -> Silver:
    directory = run.table("silver")
    table = directory.read([schema.RECORD_ID, schema.LABEL, schema.CONFIDENCE])
    label, known = _codes(table[schema.LABEL], categories)
    if not known.all():
        raise InputError(f"{directory.uri}: a silver label is no category of the task ({', '.join(categories)})")
    confidence = table[schema.CONFIDENCE]
    raw_label = None
    if raw is not None:
        found, places = _find(raw[0], hash64(table[schema.RECORD_ID]))
        raw_label = raw[1][places] if found.all() else None
    return Silver(
        row=rows.of(directory, table[schema.RECORD_ID]),
        label=label,
        confidence=confidence.to_numpy() if confidence.null_count == 0 and len(confidence) else None,
        raw_label=raw_label,
    )


def _read_rejects(run: Run, rows: _Rows) -> Rejects:
    directory = run.table("rejects")
    table = directory.read([schema.RECORD_ID, schema.REJECT_REASON])
    return Rejects(row=rows.of(directory, table[schema.RECORD_ID]), reason=table[schema.REJECT_REASON].to_pylist())


def _read_training_record(run: Run) -> dict[str, Any]:
    checkpoint = run.table("checkpoint")
    try:
        content = checkpoint.filesystem.cat_file(checkpoint.path(TRAINING_RECORD))
    except FileNotFoundError as error:
        raise InputError(f"{checkpoint.uri} has no {TRAINING_RECORD}; `llambert verify` says more") from error
    return json.loads(content)


def _read_duplicates(run: Run) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Id hashes of all duplicates, in ascending order, and for each that of the first record with its text."""
    hashes, first = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for table in run.table("duplicates").iter_tables([schema.RECORD_ID, schema.DUPLICATE_OF]):
        hashes.append(hash64(table[schema.RECORD_ID]))
        first.append(hash64(table[schema.DUPLICATE_OF]))
    joined = np.concatenate(hashes)
    order = np.argsort(joined)
    return joined[order], np.concatenate(first)[order]


def _shot_texts(run: Run) -> list[str]:
    """Texts shown to the annotator with their answers: drawn from gold records, or the prompt's own."""
    annotator = run.recipe.annotator
    if annotator.gold_shots is not None:
        return [text.strip() for text in run.table("shots").read([schema.TEXT])[schema.TEXT].to_pylist()]
    return [shot.text.strip() for shot in run.task.prompt(annotator.prompt).shots[: annotator.num_shots]]


def _find(ascending: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> tuple[Mask, NDArray[np.int64]]:
    """Which of ``wanted`` are in ``ascending``, and where (0 for those that are not)."""
    if len(ascending) == 0:
        return np.zeros(len(wanted), bool), np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    found = ascending[places] == wanted
    return found, np.where(found, places, 0)


def _codes(column: pa.Array | pa.ChunkedArray, categories: list[str]) -> tuple[Codes, Mask]:
    """Task-order codes of a column of categories, and where it holds one."""
    codes = pc.index_in(column, value_set=pa.array(categories, column.type))
    return np.asarray(pc.fill_null(codes, 0)).astype(np.int16), np.asarray(pc.is_valid(codes))


def _split_codes(column: pa.ChunkedArray, splits: dict[str, int]) -> NDArray[np.int16]:
    encoded = column.combine_chunks().dictionary_encode()
    numbers = [splits.setdefault(name, len(splits)) for name in encoded.dictionary.to_pylist()]
    return np.array(numbers, np.int16)[encoded.indices.to_numpy()] if len(encoded) else np.empty(0, np.int16)
