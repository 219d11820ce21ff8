"""From records to committed labels: the classifier, one part at a time. What both labelling stages share; no Ray."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llambert import schema
from llambert.classifier.inference import WINDOW_RECORDS, Classifier, Predictions
from llambert.errors import InputError
from llambert.recipe import LabelRecipe
from llambert.storage.part_file import PartRows, clear_damage
from llambert.storage.run_directory import Part, TableDirectory

NUM_MALFORMED = "num_malformed"
"""The count of rejected rows that could not be read."""

_ROWS_PER_READ = 1024
WINDOW_BYTES = 32 << 20


@dataclass(frozen=True)
class LabelledPart:
    """A committed part of labels, and the seconds the model took for it."""

    part: Part
    busy_seconds: float


class PartLabeller:
    """A loaded classifier and the two tables it fills: ``labels`` and its ``rejects``."""

    def __init__(self, recipe: LabelRecipe, checkpoint: str, labels: TableDirectory, rejects: TableDirectory) -> None:
        self.recipe, self.labels, self.rejects = recipe, labels, rejects
        self.classifier = Classifier(
            checkpoint,
            dtype=recipe.dtype,
            max_batch_tokens=recipe.max_batch_tokens,
            device="cuda" if recipe.gpus_per_actor > 0 else "cpu",
            num_threads=max(1, round(recipe.cpus_per_actor)),
            trust_remote_code=recipe.trust_remote_code,
        )

    def commit(
        self,
        name: str,
        windows: Iterable[pa.Table],
        malformed: pa.Table | None = None,
        source_counts: Mapping[str, int] | None = None,
    ) -> LabelledPart:
        """Label tables of record_id, text and the columns to keep, and commit them as one part, ``name``.

        The part of ``rejects`` is committed first, even if empty, and decides: should another attempt at
        this part, killed or still running, have rejected other records, both keep to the committed one, so
        that no record is in both tables or in neither. ``malformed``: ``schema.SOURCE_REJECTS``, rows of the
        source that are no records, kept among the rejects. ``source_counts`` join the part's own.
        """
        counts: Counter[str] = Counter(source_counts)
        per_label: Counter[str] = Counter()
        rows = PartRows()
        rejected = [schema.CORPUS_REJECTS.empty_table()]
        num_records, busy_seconds = 0, 0.0
        for window, predictions in self._predict(windows):
            num_records += window.num_rows
            busy_seconds += predictions.busy_seconds
            counts["num_tokens"] += predictions.num_tokens
            counts["num_padded_tokens"] += predictions.num_padded_tokens
            counts["num_truncated"] += predictions.num_truncated
            rows.add(self._labels(window, predictions))
            rejected.append(_rejects(window, predictions))
            per_label.update(label for label in predictions.labels if label is not None)
        if malformed is not None:
            rejected.append(malformed)
            num_records += malformed.num_rows
            counts[NUM_MALFORMED] = malformed.num_rows
        settled, num_other = self._commit_rejects(name, pa.concat_tables(rejected, promote_options="default"))
        if num_other:
            rows, num_fewer = _drop_records(rows, settled[schema.RECORD_ID])
            per_label -= num_fewer
        assert rows.num_rows + settled.num_rows == num_records, f"{name}: a record was lost"
        reasons = Counter(settled[schema.REJECT_REASON].to_pylist())
        part = self.labels.commit_rows(name, rows, counts=counts, labels=per_label, rejected=reasons)
        return LabelledPart(part, busy_seconds)

    def _predict(self, windows: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, Predictions]]:
        """The windows, each with what the classifier says about it."""
        waiting: deque[pa.Table] = deque()

        def texts() -> Iterator[list[str]]:
            for window in windows:
                waiting.append(window)
                # What the tokenizer will not read anyway need not become a Python string.
                yield pc.utf8_slice_codeunits(window[schema.TEXT], 0, self.classifier.max_text_chars + 1).to_pylist()

        for predictions in self.classifier.stream(texts()):
            yield waiting.popleft(), predictions

    def _labels(self, window: pa.Table, predictions: Predictions) -> pa.Table:
        kept = np.ones(window.num_rows, dtype=bool)
        kept[list(predictions.failures)] = False
        columns = {
            schema.RECORD_ID: window[schema.RECORD_ID],
            schema.LABEL: pa.array(predictions.labels, pa.string()),
            schema.SCORE: pa.array(predictions.scores, pa.float32()),
        }
        if self.recipe.probabilities:
            columns[schema.LABEL_PROBABILITIES] = schema.encode_probabilities(
                self.classifier.categories, predictions.probabilities
            )
        columns |= {name: window[name] for name in self.recipe.keep}
        fields = [
            pa.field(name, column.type, nullable=name not in schema.LABELS.names) for name, column in columns.items()
        ]
        return pa.table(columns).filter(pa.array(kept)).cast(pa.schema(fields))

    def _commit_rejects(self, name: str, rejected: pa.Table) -> tuple[pa.Table, int]:
        """Commit the rejects, or take those that another attempt committed: ids and reasons, and how many of them
        were labelled here."""
        self.rejects.commit_part(name, rejected.combine_chunks())
        settled = self.rejects.read_part(name, [schema.RECORD_ID, schema.REJECT_REASON])
        ours, theirs = rejected[schema.RECORD_ID], settled[schema.RECORD_ID]
        lost = ours.filter(pc.invert(pc.is_in(ours, theirs)))
        if len(lost):
            raise RuntimeError(
                f"{name}: {len(lost)} records failed here that another attempt labelled, for example {lost[0]}"
            )
        return settled, pc.sum(pc.invert(pc.is_in(theirs, ours))).as_py() or 0


def _drop_records(rows: PartRows, record_ids: pa.ChunkedArray) -> tuple[PartRows, Counter[str]]:
    """``rows`` less those of ``record_ids``, and how many these were of each label."""
    table = pq.read_table(pa.BufferReader(rows.content({}))).replace_schema_metadata(None)
    is_gone = pc.is_in(table[schema.RECORD_ID], record_ids)
    kept = PartRows()
    kept.add(table.filter(pc.invert(is_gone)))
    return kept, Counter(table.filter(is_gone)[schema.LABEL].to_pylist())


def read_windows(corpus: TableDirectory, name: str, columns: list[str]) -> Iterator[pa.Table]:
    """A corpus part in tables of at most ``WINDOW_RECORDS`` rows and, single rows aside, 32 MiB of text.

    Read a thousand rows at a time: memory does not depend on the size of the part. An empty part is one empty
    table.
    """
    with (
        corpus.filesystem.open(corpus.path(name), "rb") as stream,
        clear_damage(f"{corpus.uri}/{name}"),
        pq.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True) as parquet,
    ):
        missing = [column for column in columns if column not in parquet.schema_arrow.names]
        if missing:
            raise InputError(f"label.keep: {corpus.uri}/{name} has no column {', '.join(missing)}")
        waiting: list[pa.Table] = []
        num_rows = num_bytes = 0
        for batch in parquet.iter_batches(batch_size=_ROWS_PER_READ, columns=columns):
            table = pa.Table.from_batches([batch]).select(columns)
            size = pc.sum(pc.binary_length(table[schema.TEXT])).as_py() or 0
            if waiting and (num_rows + table.num_rows > WINDOW_RECORDS or num_bytes + size > WINDOW_BYTES):
                yield pa.concat_tables(waiting)
                waiting, num_rows, num_bytes = [], 0, 0
            waiting.append(table)
            num_rows += table.num_rows
            num_bytes += size
        yield pa.concat_tables(waiting) if waiting else parquet.schema_arrow.empty_table().select(columns)


def work_counts(part: Part) -> dict[str, int]:
    """What a part of ``labels`` took, as counted while the stage works: records, those rejected, tokens."""
    return {
        "num_records": part.num_in,
        "num_rejected": part.num_in - part.num_rows,
        "num_tokens": part.counts["num_tokens"],
        "num_padded_tokens": part.counts["num_padded_tokens"],
    }


def _rejects(window: pa.Table, predictions: Predictions) -> pa.Table:
    rows = sorted(predictions.failures)
    failed = window.take(pa.array(rows, pa.int64()))
    return pa.table(
        [
            failed[schema.RECORD_ID],
            failed[schema.TEXT],
            pa.array([predictions.failures[row] for row in rows], pa.string()),
        ],
        schema=schema.CORPUS_REJECTS,
    )
