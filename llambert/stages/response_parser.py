"""How the annotator's responses are read as categories: one task's words, one sample's prior correction."""

from collections.abc import Callable

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
from llambert.annotation.responses import iter_answers
from llambert.annotation.verbalizer import RejectReason, Verbalizer
from llambert.errors import InputError
from llambert.run import Run

RESPONSE_COLUMNS = [schema.RESPONSE, schema.FINISH_REASON, schema.LABEL_PROBABILITIES, schema.ERROR_KIND]
"""What the parser reads of a response."""

Reasons = list[RejectReason | None]  # of each response, None where there is none
Labelled = tuple[list[str | None], Floats | None, Floats | None]
"""Of each response: its label, or None; where the annotator gives them, probabilities (categories) and confidence."""


class ResponseParser:
    """Reads responses with one task's words and the correction that the annotation sample of ``run`` gives.

    So what is asked about other records, to certify or to escalate, is read as the silver labels are.
    ``InputError`` where the recipe asks for what these responses do not have.
    """

    def __init__(self, run: Run) -> None:
        self._recipe = run.recipe.parse
        self._categories = run.task.category_names
        self._verbalizer = Verbalizer({category.name: category.answer_words for category in run.task.categories})
        self._has_probabilities = run.recipe.annotator.mode != "generate"
        self.measures: dict[str, float] = {}
        if self._has_probabilities:
            self._correction = self._fit(run)

    def labels(self, responses: pa.Table) -> tuple[list[str | None], Reasons]:
        """The label of each response (``RESPONSE_COLUMNS``), or None and why it has no label."""
        reasons = _error_reasons(responses)
        return self._label(responses, reasons)[0], reasons

    @property
    def _label(self) -> Callable[[pa.Table, Reasons], Labelled]:
        return self._label_by_probabilities if self._has_probabilities else self._label_by_words

    def separate(self, responses: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Silver rows and rejects of some responses, each in their order."""
        reasons = _error_reasons(responses)
        labels, probabilities, confidence = self._label(responses, reasons)
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
