"""A finished run's tables as aligned arrays, read part by part: the input of every figure of the report.

Texts are read for their length and dropped; a record takes about 50 bytes, and as much again for sorting. Measured:
500,000 records, all with gold, in two parts: 3.5 s and 421 MiB for the whole report.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llambert import schema
from llambert.annotation.responses import iter_answers
from llambert.annotation.splits import is_sampled
from llambert.errors import InputError
from llambert.evaluation.final_table import DECIDERS, final_table, iter_decided
from llambert.evaluation.guaranteed import Guaranteed
from llambert.evaluation.hash_index import HashIndex
from llambert.evaluation.saved_gold import SavedGold, take_saved_gold
from llambert.hashing import hash64
from llambert.run import Run
from llambert.storage.manifest import Manifest
from llambert.storage.run_directory import TableDirectory
from llambert.untrusted import parse_json

Mask = NDArray[np.bool_]
Codes = NDArray[np.int16]
TRAINING_RECORD = "training_record.json"


@dataclass(frozen=True)
class Records:
    """The corpus, one entry a record in corpus order; category codes in task order, valid where their mask is set."""

    gold: Codes
    has_gold: Mask
    """Also true of the first record of a text without a gold label if a copy has one: it gets that of the first."""
    num_gold: int
    """Records that have a gold label themselves, or have people's saved one."""
    is_saved_gold: Mask
    """Its gold label is what people answered, and was saved: no copy has one in the corpus."""
    num_saved_differ: int
    """Texts with a gold label in the corpus, which counts, that people gave another one."""
    label: Codes
    """The classifier's."""
    has_label: Mask
    score: NDArray[np.float32]
    final: Codes
    """The label that users take: what certify and escalate decided, or else the classifier's."""
    decided_by: Codes
    """Whose label that is, by its place in ``DECIDERS``."""
    num_chars: NDArray[np.int32]
    split: NDArray[np.int16]
    splits: list[str]
    is_sampled: Mask
    """In one of the splits that the sample was drawn from."""
    is_annotated: Mask
    """In the sample the annotator was asked about, answered or not."""
    is_duplicate: Mask
    text: NDArray[np.int32]
    """A code of its text, which all copies share."""
    is_trained_on_gold: Mask
    """The classifier was given the gold label of a record with this text in training, or to watch it."""
    is_learned: Mask
    """The classifier was given the silver or the gold label of a record with this text in training, or to watch it."""
    is_given_away: Mask
    """The silver labels were made with the answer: the annotator was shown this text as a shot, or the record's gold
    label is one that the prior correction was fitted to."""
    is_seen: Mask
    """A record with this text was annotated, shown to the annotator as a shot, or trained on with its gold label."""
    is_evaluated: Mask
    """Has a label and gold; one record per text, the first copy that has both."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def num_saved_gold(self) -> int:
        """Records whose gold label is a saved answer of people."""
        return int(self.is_saved_gold.sum())

    @property
    def judges_annotator(self) -> Mask:
        """Has gold that neither the annotator nor the reading of its answers was given."""
        return self.has_gold & ~self.is_given_away

    @property
    def judges_classifier(self) -> Mask:
        """Evaluated, and no gold label of this text was trained on."""
        return self.is_evaluated & ~self.is_trained_on_gold

    @property
    def is_unlearned(self) -> Mask:
        """Judges the classifier, whose training saw neither a silver nor a gold label of its text."""
        return self.judges_classifier & ~self.is_learned

    @property
    def is_unseen(self) -> Mask:
        """Evaluated, and neither the annotator nor the classifier's training saw its text."""
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
    """Everything that the report is computed from."""

    categories: list[str]
    manifests: dict[str, Manifest]
    """By table, in the order of the method."""
    records: Records
    silver: Silver
    rejects: Rejects
    answers: Answers
    training_record: dict[str, Any]
    guaranteed: Guaranteed | None
    """None if the recipe wants no guarantee."""


def read_evidence(run: Run) -> Evidence:
    """Read a run whose stages are all complete; ``InputError`` naming the table that is not.

    Certify and escalate may wait for people's answers.
    """
    manifests = {name: run.table(name).require_manifest() for name in run.tables.upstream("report", run.recipe)}
    categories = run.task.category_names
    answers, annotated, raw_labels = _read_answers(run, categories)
    records, annotated_in_order = _read_records(run, categories, HashIndex([(annotated,)]))
    rows = HashIndex([(annotated_in_order, np.flatnonzero(records.is_annotated))], np.int64)
    return Evidence(
        categories=categories,
        manifests=manifests,
        records=records,
        silver=_read_silver(run, categories, rows, raw_labels),
        rejects=_read_rejects(run, rows),
        answers=answers,
        training_record=_read_training_record(run),
        guaranteed=Guaranteed.read(run),
    )


def _read_records(run: Run, categories: list[str], annotated: HashIndex) -> tuple[Records, NDArray[np.uint64]]:
    """The corpus with its labels, and the id hashes of its annotated records in corpus order."""
    labels, duplicates = _read_labels(run, categories), _read_duplicates(run)
    shots = pa.array(shot_texts(run), pa.string())
    learned, learned_gold = learned_texts(run)
    columns: dict[str, list[NDArray]] = {}
    splits: dict[str, int] = {}
    wanted = [schema.RECORD_ID, schema.TEXT, schema.SPLIT, schema.GOLD_LABEL]
    saved = SavedGold.read(run)
    parse = run.recipe.parse
    fitted = pa.array(list(parse.gold_labels) if parse.prior_correction == "gold" else [], pa.string())
    for table in run.table("corpus").iter_tables(wanted):
        hashes = hash64(table[schema.RECORD_ID])
        gold, has_gold = _codes(table[schema.GOLD_LABEL], categories)
        has_label, (label, score, final, decided_by) = labels.find(hashes)
        is_annotated, _ = annotated.find(hashes)
        is_duplicate, (first_copy,) = duplicates.find(hashes)
        texts = hash64(table[schema.TEXT])
        is_learned = np.isin(texts, learned)
        is_shot = np.asarray(pc.is_in(pc.utf8_trim_whitespace(table[schema.TEXT]), value_set=shots))
        saved_gold, has_saved_gold = saved.find(texts)
        part = {
            "gold": gold,
            "has_gold": has_gold,
            "saved_gold": saved_gold,
            "has_saved_gold": has_saved_gold,
            "label": label,
            "has_label": has_label,
            "score": score,
            "final": final,
            "decided_by": decided_by,
            "num_chars": pc.utf8_length(table[schema.TEXT]).to_numpy().astype(np.int32),
            "split": _split_codes(table[schema.SPLIT], splits),
            "is_sampled": np.asarray(is_sampled(run.recipe, table[schema.SPLIT])),
            "is_annotated": is_annotated,
            "is_duplicate": is_duplicate,
            "is_trained_on_gold": np.isin(texts, learned_gold),
            "is_learned": is_learned,
            "is_given_away": is_shot | np.asarray(pc.is_in(table[schema.RECORD_ID], value_set=fitted)),
            "is_seen": is_annotated | is_learned | is_shot,
            "first_copy": np.where(is_duplicate, first_copy, hashes),
            "annotated_hashes": hashes[is_annotated],
        }
        for name, values in part.items():
            columns.setdefault(name, []).append(values)
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    annotated_hashes, first_copies = whole.pop("annotated_hashes"), whole.pop("first_copy")
    whole["text"] = np.unique(first_copies, return_inverse=True)[1].astype(np.int32)
    of_texts = ("is_trained_on_gold", "is_learned", "is_given_away", "is_seen")
    for name in of_texts:  # properties of a text hold for all of its copies
        whole[name] = np.isin(first_copies, first_copies[whole[name]])
    num_differ = take_saved_gold(whole, first_copies)
    whole["is_evaluated"] = _one_per_text(whole["has_gold"] & whole["has_label"], whole["is_duplicate"], first_copies)
    num_gold = int(whole["has_gold"].sum())
    _share_gold_among_copies(whole, first_copies)
    return Records(splits=list(splits), num_gold=num_gold, num_saved_differ=num_differ, **whole), annotated_hashes


def learned_texts(run: Run) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Hashes of the texts whose labels the checkpoint was given in training, and of those whose gold labels it was.

    They are of the corpus as it was then: the checkpoint may be older than what it labels.
    """
    learned = run.table("learned").read()
    gold = learned.filter(pc.equal(learned[schema.LABELS_OF], "gold"))
    return learned[schema.TEXT_HASH].to_numpy(), gold[schema.TEXT_HASH].to_numpy()


def _one_per_text(chosen: Mask, is_duplicate: Mask, first_copy: NDArray[np.uint64]) -> Mask:
    """One of the chosen records per text: the one that is not a duplicate, or else the first duplicate."""
    once = chosen & ~is_duplicate
    places = np.flatnonzero(chosen & ~np.isin(first_copy, first_copy[once]))
    once[places[np.unique(first_copy[places], return_index=True)[1]]] = True
    return once


def _share_gold_among_copies(whole: dict[str, NDArray], first_copy: NDArray[np.uint64]) -> None:
    """Give the first record of a text, which is the annotated one, the gold label of a duplicate if it has none."""
    is_duplicate, has_gold = whole["is_duplicate"], whole["has_gold"]
    sources = np.flatnonzero(_one_per_text(has_gold, is_duplicate, first_copy) & is_duplicate)
    gold_of_text = HashIndex([(first_copy[sources], whole["gold"][sources])], np.int16)
    firsts = np.flatnonzero(~is_duplicate & ~has_gold)
    found, (gold,) = gold_of_text.find(first_copy[firsts])
    whole["gold"][firsts[found]] = gold[found]
    has_gold[firsts[found]] = True


def _read_labels(run: Run, categories: list[str]) -> HashIndex:
    """Each record's label and score by the classifier, its final label, and who decided that."""
    table = run.table(final_table(run))

    def columns(rows: pa.Table) -> tuple[NDArray, ...]:
        own, final = (_known_codes(rows[name], categories, table) for name in (schema.CLASSIFIER_LABEL, schema.LABEL))
        by, _ = _codes(rows[schema.DECIDED_BY], list(DECIDERS))
        return hash64(rows[schema.RECORD_ID]), own, rows[schema.SCORE].to_numpy(), final, by

    return HashIndex(map(columns, iter_decided(run)), np.int16, np.float32, np.int16, np.int16)


def _read_answers(run: Run, categories: list[str]) -> tuple[Answers, NDArray[np.uint64], HashIndex]:
    """What the annotator answered, the id hashes of the records it was asked about, and the raw labels.

    Raw labels are the most probable categories before prior correction.
    """
    shown = next((table for _, table in iter_answers(run.table, [schema.PROMPT, schema.RESPONSE]) if len(table)), None)
    left_out = (schema.TEXT, schema.SPLIT, schema.PROMPT, schema.RESPONSE)
    columns = [name for name in schema.JOINED_RESPONSES.names if name not in left_out]
    tables = [table for _, table in iter_answers(run.table, columns)]
    rows = pa.concat_tables([schema.JOINED_RESPONSES.empty_table().select(columns), *tables])
    answers = Answers(
        num=rows.num_rows,
        num_prompt_tokens=sum(rows[schema.NUM_PROMPT_TOKENS].to_pylist()),
        num_response_tokens=sum(rows[schema.NUM_RESPONSE_TOKENS].to_pylist()),
        num_truncated=sum(num > 0 for num in rows[schema.NUM_TRUNCATED_TOKENS].to_pylist()),
        finish_reasons=dict(Counter(rows[schema.FINISH_REASON].to_pylist()).most_common()),
        models=[name for name in rows[schema.MODEL].unique().to_pylist() if name],
        prompt=None if shown is None else shown[schema.PROMPT][0].as_py(),
        response=None if shown is None else shown[schema.RESPONSE][0].as_py(),
    )
    hashes = hash64(rows[schema.RECORD_ID])
    probabilities = schema.decode_probabilities(rows[schema.LABEL_PROBABILITIES], categories)
    has_label = probabilities.sum(axis=1) > 0
    raw_labels = probabilities[has_label].argmax(axis=1).astype(np.int16)
    return answers, hashes, HashIndex([(hashes[has_label], raw_labels)], np.int16)


def _read_silver(run: Run, categories: list[str], rows: HashIndex, raw_labels: HashIndex) -> Silver:
    directory = run.table("silver")
    table = directory.read([schema.RECORD_ID, schema.LABEL, schema.CONFIDENCE])
    confidence = table[schema.CONFIDENCE]
    found, (raw_label,) = raw_labels.find(hash64(table[schema.RECORD_ID]))
    return Silver(
        row=_rows_of(rows, directory, table[schema.RECORD_ID]),
        label=_known_codes(table[schema.LABEL], categories, directory),
        confidence=confidence.to_numpy() if confidence.null_count == 0 and len(confidence) else None,
        raw_label=raw_label if len(raw_labels) and found.all() else None,
    )


def _read_rejects(run: Run, rows: HashIndex) -> Rejects:
    directory = run.table("rejects")
    table = directory.read([schema.RECORD_ID, schema.REJECT_REASON])
    return Rejects(
        row=_rows_of(rows, directory, table[schema.RECORD_ID]), reason=table[schema.REJECT_REASON].to_pylist()
    )


def _rows_of(rows: HashIndex, table: TableDirectory, ids: pa.ChunkedArray) -> NDArray[np.int64]:
    """The places in the corpus of the records ``ids`` of ``table``; ``InputError`` if one was never annotated."""
    found, (places,) = rows.find(hash64(ids))
    if not found.all():
        unknown = ids[int(np.flatnonzero(~found)[0])].as_py()
        raise InputError(f"{table.uri}: record {unknown!r} was never annotated; `llambert verify` says more")
    return places


def _read_training_record(run: Run) -> dict[str, Any]:
    checkpoint = run.table("checkpoint")
    with checkpoint.reading(TRAINING_RECORD):
        record = parse_json(checkpoint.read_file(TRAINING_RECORD))
        if not isinstance(record, dict):
            raise ValueError("it is no JSON object")
    return record


def _read_duplicates(run: Run) -> HashIndex:
    """For each duplicate the id hash of the first record with its text."""
    tables = run.table("duplicates").iter_tables([schema.RECORD_ID, schema.DUPLICATE_OF])
    return HashIndex(((hash64(t[schema.RECORD_ID]), hash64(t[schema.DUPLICATE_OF])) for t in tables), np.uint64)


def shot_texts(run: Run) -> list[str]:
    """Texts of the prompt's shots: drawn from gold records, or those of the task."""
    annotator = run.recipe.annotator
    if annotator.gold_shots is not None:
        return [text.strip() for text in run.table("shots").read([schema.TEXT])[schema.TEXT].to_pylist()]
    return [shot.text.strip() for shot in run.task.prompt(annotator.prompt).shots[: annotator.num_shots]]


def _codes(column: pa.Array | pa.ChunkedArray, categories: list[str]) -> tuple[Codes, Mask]:
    """Task-order codes of a column of categories, and where it holds one."""
    codes = pc.index_in(column, value_set=pa.array(categories, column.type))
    return np.asarray(pc.fill_null(codes, 0)).astype(np.int16), np.asarray(pc.is_valid(codes))


def _known_codes(column: pa.ChunkedArray, categories: list[str], table: TableDirectory) -> Codes:
    """The codes of a column of ``table``; ``InputError`` if one of its values is not a category."""
    codes, known = _codes(column, categories)
    if not known.all():
        unknown = column[int(np.flatnonzero(~known)[0])].as_py()
        raise InputError(f"{table.uri}: label {unknown!r} is no category of the task ({', '.join(categories)})")
    return codes


def _split_codes(column: pa.ChunkedArray, splits: dict[str, int]) -> NDArray[np.int16]:
    encoded = column.combine_chunks().dictionary_encode()
    numbers = [splits.setdefault(name, len(splits)) for name in encoded.dictionary.to_pylist()]
    return np.array(numbers, np.int16)[encoded.indices.to_numpy()] if len(encoded) else np.empty(0, np.int16)
