"""Parse: stored responses -> ``silver`` and ``rejects``. No LLM and no Ray: parsing again costs seconds.

Words of a ``generate`` response are read by rule (verbalizer.py). Probabilities of ``score`` and ``choice`` are
normalised and, if the recipe asks, corrected for the annotator's preference among the categories
(calibration.py), which needs a first pass over the sample; a record of which two categories are equally probable is
``ambiguous``. Gold labels of the corpus are never read here.
"""

import contextlib
import time
from collections import Counter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llambert import schema
from llambert.annotation.calibration import (
    Correction,
    Floats,
    batch_calibration,
    contextual_calibration,
    gold_calibration,
    labels_and_confidence,
    no_correction,
    normalise,
    prior_matching,
)
from llambert.annotation.part_names import part_name, version_of
from llambert.annotation.responses import RESPONSES_VERSION, answers_version, iter_answers
from llambert.annotation.verbalizer import RejectReason, Verbalizer
from llambert.errors import Damaged, InputError
from llambert.run import Run
from llambert.storage.manifest import Manifest, Part, total

_ANSWER_COLUMNS = [schema.RESPONSE, schema.FINISH_REASON, schema.LABEL_PROBABILITIES, schema.ERROR_KIND]


def parse(run: Run) -> Manifest:
    """Make ``silver`` and ``rejects`` of the responses; skipped when complete.

    A complete table is made again where records have been answered since (``responses.py``): its parts get new names,
    and the old ones go when the new manifest is there.

    Returns the manifest of ``silver``: ``num_rejected`` by reason; ``labels``; ``measures``
    ``share.<category>`` of the labels and, where there are label probabilities, ``prior.<category>`` (the mean
    probability before any correction), ``bias.<category>`` and ``scale`` (what the correction did to
    log-probabilities). ``InputError`` where the recipe asks for what these responses do not have.
    """
    silver, rejects = run.table("silver"), run.table("rejects")
    version, complete = answers_version(run.table("responses").read_manifest()), silver.read_manifest()
    if complete and complete.upstream.get(RESPONSES_VERSION) == version:
        return complete if _remove_replaced(run, version) else parse(run)
    started = time.monotonic()
    check(run)
    parser = _Parser(run)
    silver_parts: list[Part] = []
    reject_parts: list[Part] = []
    for ranks, responses in iter_answers(run.table, [*schema.SAMPLE.names, *_ANSWER_COLUMNS]):
        name = part_name(*ranks, version)
        kept, rejected = parser.separate(responses)
        reject_parts.append(rejects.commit_part(name, rejected, counts=_count_values(rejected, schema.REJECT_REASON)))
        silver_parts.append(silver.commit_part(name, kept, labels=_count_values(kept, schema.LABEL)))
    if _has_more_answers(run, version):
        return parse(run)  # and a part of them was read
    num_rejected, per_label = total(reject_parts), total(silver_parts, "labels")
    num_kept = max(sum(per_label.values()), 1)
    shares = {f"share.{name}": per_label.get(name, 0) / num_kept for name in run.task.category_names}
    try:
        made = run.complete(
            "silver",
            silver_parts,
            num_rejected,
            {RESPONSES_VERSION: version},
            measures={**parser.measures, **shares},
            wall_seconds=time.monotonic() - started,
        )
    except Damaged:  # another driver has removed these parts as those of earlier answers
        if not _has_more_answers(run, version):
            raise
        return parse(run)
    return made if _remove_replaced(run, version) else parse(run)


def _has_more_answers(run: Run, version: str) -> bool:
    """Whether the responses are not of ``version`` any more: another driver has asked again meanwhile."""
    return answers_version(run.table("responses").read_manifest()) != version


def _remove_replaced(run: Run, version: str) -> bool:
    """Remove the parts that were made of other answers than those of ``version``.

    Nothing is removed, and False returned, if more was answered since: another driver may be making silver of that.
    Its parts are not in the listing either: they are made after the responses have changed, and the listing was made
    before these were seen to be of ``version``.
    """
    replaced = [
        (table, name)
        for table in (run.table("silver"), run.table("rejects"))
        for name in table.part_names()
        if version_of(name) not in ("", version)
    ]
    if _has_more_answers(run, version):
        return False
    for table, name in replaced:
        with contextlib.suppress(FileNotFoundError):  # another driver was faster
            table.filesystem.rm_file(table.path(name))
    return True


def check(run: Run) -> None:
    """Refuse a ``parse`` section that this task or this annotator's mode cannot follow."""
    recipe, categories = run.recipe.parse, run.task.category_names
    wants_probabilities = {
        "prior_correction": recipe.prior_correction != "none",
        "min_answer_mass": recipe.min_answer_mass > 0,
        "min_confidence": recipe.min_confidence > 0,
    }
    for key, is_wanted in wants_probabilities.items():
        if is_wanted and run.recipe.annotator.mode == "generate":
            raise InputError(f"parse.{key}: needs label probabilities; annotator.mode 'generate' has none, 'score' has")
    if shares := recipe.expected_shares:
        if sorted(shares) != sorted(categories):
            raise InputError(f"parse.expected_shares: names {', '.join(shares)}; the task has {', '.join(categories)}")
        if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
            raise InputError(f"parse.expected_shares: must be above 0 and sum to 1 (found {dict(shares)})")
    if unknown := sorted(set(recipe.gold_labels.values()) - set(categories)):
        raise InputError(f"parse.gold_labels: {unknown[0]!r} is no category; the task has {', '.join(categories)}")
    if recipe.prior_correction == "gold" and not recipe.gold_labels:
        raise InputError("parse.gold_labels: prior_correction 'gold' needs some: record_id -> category")


def _count_values(table: pa.Table, column: str) -> dict[str, int]:
    return dict(Counter(table[column].to_pylist()))


Reasons = list[RejectReason | None]  # of each response, None where there is none
Labelled = tuple[list[str | None], Floats | None, Floats | None]
"""Of each response: its label, or None; where the annotator gives them, probabilities (categories) and confidence."""


class _Parser:
    """Reads responses with one task's words and one sample's correction."""

    def __init__(self, run: Run) -> None:
        self._recipe = run.recipe.parse
        self._categories = run.task.category_names
        self._verbalizer = Verbalizer({category.name: category.answer_words for category in run.task.categories})
        self._has_probabilities = run.recipe.annotator.mode != "generate"
        self.measures: dict[str, float] = {}
        if self._has_probabilities:
            self._correction = self._fit(run)

    def separate(self, responses: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Silver rows and rejects of some responses, each in their order."""
        reasons = _error_reasons(responses)
        label = self._label_by_probabilities if self._has_probabilities else self._label_by_words
        labels, probabilities, confidence = label(responses, reasons)
        is_kept = np.array([label is not None for label in labels], dtype=bool)
        kept, rejected = responses.filter(pa.array(is_kept)), responses.filter(pa.array(~is_kept))
        silver = {
            **{name: kept[name] for name in schema.SAMPLE.names},
            schema.LABEL: [label for label in labels if label is not None],
            schema.LABEL_PROBABILITIES: pa.nulls(kept.num_rows, schema.PROBABILITIES)
            if probabilities is None
            else schema.encode_probabilities(self._categories, probabilities[is_kept]),
            schema.CONFIDENCE: pa.nulls(kept.num_rows, pa.float64()) if confidence is None else confidence[is_kept],
        }
        rejects = {
            schema.RECORD_ID: rejected[schema.RECORD_ID],
            schema.RESPONSE: rejected[schema.RESPONSE],
            schema.REJECT_REASON: [reason for reason in reasons if reason is not None],
        }
        return pa.table(silver, schema=schema.SILVER), pa.table(rejects, schema=schema.REJECTS)

    def _label_by_words(self, responses: pa.Table, reasons: Reasons) -> Labelled:
        """Labels by the answer words; writes into ``reasons`` why a response has none."""
        labels: list[str | None] = [None] * len(reasons)
        answers = zip(responses[schema.RESPONSE].to_pylist(), responses[schema.FINISH_REASON].to_pylist(), strict=True)
        for row, (response, finish_reason) in enumerate(answers):
            if reasons[row] is None:
                reading = self._verbalizer.read(response, finish_reason)
                labels[row], reasons[row] = reading.category, reading.reject_reason
        return labels, None, None

    def _label_by_probabilities(self, responses: pa.Table, reasons: Reasons) -> Labelled:
        """Labels by the corrected probabilities; writes into ``reasons`` why a response has none."""
        raw = self._raw(responses)
        usable = self._is_usable(raw) & np.array([reason is None for reason in reasons], dtype=bool)
        probabilities, confidence = np.zeros_like(raw), np.zeros(len(raw))
        probabilities[usable] = self._correction.apply(normalise(raw[usable]))
        best, confidence[usable] = labels_and_confidence(probabilities[usable])
        is_tied = (probabilities == confidence[:, None]).sum(axis=1) > 1
        labels: list[str | None] = [None] * len(raw)
        for row, category in zip(np.flatnonzero(usable), best, strict=True):
            if confidence[row] < self._recipe.min_confidence:
                reasons[row] = RejectReason.LOW_CONFIDENCE
            elif is_tied[row]:
                reasons[row] = RejectReason.AMBIGUOUS
            else:
                labels[row] = self._categories[category]
        for row in np.flatnonzero(~usable):
            reasons[row] = reasons[row] or RejectReason.NO_CATEGORY
        return labels, probabilities, confidence

    def _fit(self, run: Run) -> Correction:
        """The recipe's correction, from one pass over the sample; it holds a number a record and category."""
        ids: list[str] = []
        pieces = [np.zeros((0, len(self._categories)))]
        for _, responses in iter_answers(run.table, [schema.RECORD_ID, schema.LABEL_PROBABILITIES]):
            raw = self._raw(responses)
            usable = self._is_usable(raw)
            pieces.append(normalise(raw[usable]))
            if self._recipe.gold_labels:
                ids += responses[schema.RECORD_ID].filter(pa.array(usable)).to_pylist()
        sample = np.concatenate(pieces)
        if not len(sample):
            return no_correction(len(self._categories))
        correction = self._correction_for(run, sample, ids)
        priors, biases = sample.mean(axis=0), correction.bias
        self.measures = {"scale": correction.scale}
        for name, prior, bias in zip(self._categories, priors, biases, strict=True):
            self.measures |= {f"prior.{name}": float(prior), f"bias.{name}": float(bias)}
        return correction

    def _correction_for(self, run: Run, sample: Floats, ids: list[str]) -> Correction:
        expected = self._recipe.expected_shares
        shares = np.array([expected[name] for name in self._categories]) if expected else None
        match self._recipe.prior_correction:
            case "none":
                return no_correction(len(self._categories))
            case "batch":
                return batch_calibration(sample, shares)
            case "contextual":
                return contextual_calibration(self._content_free(run), shares)
            case "prior_matching":
                return prior_matching(sample, shares)
            case "gold":
                gold = self._recipe.gold_labels
                rows = [row for row, record_id in enumerate(ids) if record_id in gold]
                if not rows:
                    raise InputError("parse.gold_labels: none of these records is among the annotated ones")
                labels = [self._categories.index(gold[ids[row]]) for row in rows]
                return gold_calibration(sample[rows], np.array(labels))

    def _content_free(self, run: Run) -> Floats:
        """Raw probabilities of the texts without content, (texts, categories)."""
        tables = [rows for _, rows in iter_answers(run.table, [schema.LABEL_PROBABILITIES], "content_free")]
        raw = self._raw(pa.concat_tables(tables))
        usable = raw[raw.sum(axis=1) > 0]
        if not len(usable):
            raise InputError(
                "parse.prior_correction: the annotator gave no answer to any text without content; use 'batch'"
            )
        return usable

    def _raw(self, responses: pa.Table) -> Floats:
        """Raw probabilities, (records, categories); zeros where the engine gave none."""
        return schema.decode_probabilities(responses[schema.LABEL_PROBABILITIES], self._categories)

    def _is_usable(self, raw: Floats) -> NDArray[np.bool_]:
        """Which records have enough of the model's belief on any answer word."""
        mass = raw.sum(axis=1)
        return (mass > 0) & (mass >= self._recipe.min_answer_mass)


def _error_reasons(responses: pa.Table) -> Reasons:
    """Why the engine gave no answer; None where it gave one."""
    return [
        RejectReason.of_error(kind) if finish_reason == "error" else None
        for finish_reason, kind in zip(
            responses[schema.FINISH_REASON].to_pylist(), responses[schema.ERROR_KIND].to_pylist(), strict=True
        )
    ]
