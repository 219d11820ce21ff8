"""Parse: stored responses -> ``silver`` and ``rejects``. No LLM and no Ray: parsing again costs seconds.

Words of a ``generate`` response are read by rule (verbalizer.py); probabilities of ``score`` and ``choice``
are normalised, and the annotator's prior is taken off if the recipe asks (calibration.py), which needs a first
pass over the whole sample. Gold labels are never read here.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.calibration import Correction, batch_calibration, labels_and_confidence, no_correction, normalise
from llambert.run import Run
from llambert.run_directory import Manifest, Part
from llambert.verbalizer import Verbalizer

_PART_NAME = re.compile(r"part-(\d{9,})-(\d{9,})\.parquet")
_COLUMNS = [schema.RECORD_ID, schema.TEXT, schema.RESPONSE, schema.FINISH_REASON, schema.LABEL_PROBABILITIES]


def parse(run: Run) -> Manifest:
    """Make ``silver`` and ``rejects`` of the first ``annotator.num_records`` responses; skipped when complete.

    Returns the manifest of ``silver``: rejects by reason in ``num_rejected``, and in ``measures`` the
    log-bias that the prior correction added to each category.
    """
    silver, rejects = run.table("silver"), run.table("rejects")
    if manifest := silver.read_manifest():
        return manifest
    started = time.monotonic()
    parser = _Parser(run)
    silver_parts: list[Part] = []
    reject_parts: list[Part] = []
    for name, responses in _responses(run):
        kept, rejected = parser.separate(responses)
        reject_parts.append(rejects.commit_part(name, rejected, _tally(rejected, schema.REJECT_REASON)))
        silver_parts.append(silver.commit_part(name, kept, _tally(kept, schema.LABEL)))
    num_rejected, per_label = _summed(reject_parts), _summed(silver_parts)
    num_kept = sum(per_label.values())

    def manifest_of(parts: list[Part], num_kept: int, num_rejected: dict[str, int], counts: dict[str, int]) -> Manifest:
        return Manifest(
            stage="parse",
            fingerprint=run.fingerprints["silver"],
            upstream={"responses": run.fingerprints["responses"]},
            recipe=run.recipe.parse.model_dump(mode="json"),
            num_in=num_kept + sum(num_rejected.values()),
            num_kept=num_kept,
            num_rejected=num_rejected,
            counts=counts,
            measures=parser.measures,
            wall_seconds=time.monotonic() - started,
            parts=parts,
        )

    rejects.write_manifest(manifest_of(reject_parts, sum(num_rejected.values()), {}, num_rejected))
    counts = {f"label.{label}": count for label, count in per_label.items()}
    return silver.write_manifest(manifest_of(silver_parts, num_kept, num_rejected, counts))


def _tally(table: pa.Table, column: str) -> dict[str, int]:
    return dict(Counter(table[column].to_pylist()))


def _summed(parts: list[Part]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part.counts)
    return dict(sorted(total.items()))


def _responses(run: Run) -> Iterator[tuple[str, pa.Table]]:
    """The responses to the first ``num_records`` records of the sample, part by part, with a name for each.

    The table may hold more, from a run with a larger sample: its rows are in sampling order, so the first n
    are those of the sample of n.
    """
    responses = run.table("responses")
    responses.require_manifest()
    wanted = run.recipe.annotator.num_records
    at = 0
    for name in responses.part_names():
        match = _PART_NAME.fullmatch(name)
        assert match, f"{responses.uri}/{name} is no part of the responses table"
        first, last = int(match[1]), min(int(match[2]), wanted)
        if last > at:
            assert first <= at, f"{responses.uri}: the responses of ranks {at} to {first} are missing"
            rows = responses.read_part(name, _COLUMNS).slice(at - first, last - at)
            yield f"part-{at:09d}-{last:09d}.parquet", rows
            at = last


@dataclass(frozen=True)
class _Outcome:
    """What one response came to: a label, or the reason why there is none."""

    label: str | None = None
    reject_reason: str | None = None
    probabilities: list[float] | None = None
    confidence: float | None = None


class _Parser:
    """Reads responses with one task's words and one sample's prior."""

    def __init__(self, run: Run) -> None:
        self._recipe = run.recipe.parse
        self._categories = run.task.category_names
        self._verbalizer = Verbalizer({c.name: c.answer_words for c in run.task.categories})
        self._by_words = run.recipe.annotator.mode == "generate"
        self._correction = self._fit(run)
        self.measures = {
            f"log_bias.{name}": float(bias) for name, bias in zip(self._categories, self._correction.bias, strict=True)
        }

    def separate(self, responses: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Silver rows and rejects of some responses, each in their order."""
        outcomes = self._read_words(responses) if self._by_words else self._read_probabilities(responses)
        is_kept = [outcome.label is not None for outcome in outcomes]
        kept = responses.filter(pa.array(is_kept))
        rejected = responses.filter(pa.array([not kept for kept in is_kept]))
        labelled = [outcome for outcome in outcomes if outcome.label is not None]
        silver = {
            schema.RECORD_ID: kept[schema.RECORD_ID],
            schema.TEXT: kept[schema.TEXT],
            schema.LABEL: [outcome.label for outcome in labelled],
            schema.LABEL_PROBABILITIES: [
                None if o.probabilities is None else schema.probability_rows(self._categories, [o.probabilities])[0]
                for o in labelled
            ],
            schema.CONFIDENCE: [outcome.confidence for outcome in labelled],
        }
        rejects = {
            schema.RECORD_ID: rejected[schema.RECORD_ID],
            schema.RESPONSE: rejected[schema.RESPONSE],
            schema.REJECT_REASON: [outcome.reject_reason for outcome in outcomes if outcome.label is None],
        }
        return pa.table(silver, schema=schema.SILVER), pa.table(rejects, schema=schema.REJECTS)

    def _read_words(self, responses: pa.Table) -> list[_Outcome]:
        columns = responses[schema.RESPONSE].to_pylist(), responses[schema.FINISH_REASON].to_pylist()
        return [self._read_response(*row) for row in zip(*columns, strict=True)]

    def _read_response(self, response: str | None, finish_reason: str) -> _Outcome:
        if finish_reason == "error":
            return _Outcome(reject_reason="engine_error")
        reading = self._verbalizer.read(response, finish_reason)
        return _Outcome(reading.category, reading.reject_reason)

    def _read_probabilities(self, responses: pa.Table) -> list[_Outcome]:
        raw = self._raw(responses)
        usable = self._is_usable(raw)
        errors = responses[schema.FINISH_REASON].to_pylist()
        outcomes = [_Outcome(reject_reason="engine_error" if e == "error" else "no_category") for e in errors]
        if usable.any():
            corrected = self._correction.apply(normalise(raw[usable]))
            best, confidence = labels_and_confidence(corrected)
            for place, row in enumerate(np.flatnonzero(usable)):
                if confidence[place] < self._recipe.min_confidence:
                    outcomes[row] = _Outcome(reject_reason="low_confidence")
                else:
                    label = self._categories[best[place]]
                    outcomes[row] = _Outcome(label, None, corrected[place].tolist(), float(confidence[place]))
        return outcomes

    def _fit(self, run: Run) -> Correction:
        """The correction of the whole sample's prior; holds one number a record and category."""
        if not self._by_words and self._recipe.prior_correction == "batch":
            raw = np.concatenate([self._raw(responses) for _, responses in _responses(run)])
            if (usable := self._is_usable(raw)).any():
                return batch_calibration(normalise(raw[usable]))
        return no_correction(len(self._categories))

    def _raw(self, responses: pa.Table) -> np.ndarray:
        """Raw probabilities, (records, categories); a row of zeros where the engine gave none."""
        rows = np.zeros((responses.num_rows, len(self._categories)))
        for row, probabilities in enumerate(responses[schema.LABEL_PROBABILITIES].to_pylist()):
            for item in probabilities or ():
                rows[row, self._categories.index(item["category"])] = item["probability"]
        return rows

    def _is_usable(self, raw: np.ndarray) -> np.ndarray:
        """Which records have enough of the model's belief on answer words."""
        mass = raw.sum(axis=1)
        return (mass > 0) & (mass >= self._recipe.min_answer_mass)
