"""From records to committed labels, one part at a time; shared by the corpus and the user-file stage. No Ray."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llambert import schema
from llambert.classifier.batching import group_by_size
from llambert.classifier.chip import chip_name
from llambert.classifier.inference import WINDOW_RECORDS, Classifier
from llambert.classifier.predictions import Predictions
from llambert.recipe import LabelRecipe
from llambert.storage.manifest import COMPUTED_ON, Part
from llambert.storage.part_file import PartWriter
from llambert.storage.run_directory import TableDirectory

NUM_MALFORMED = "num_malformed"
"""Name of the count of rejected rows that could not be read."""

_ROWS_PER_READ = 1024
WINDOW_BYTES = 32 << 20


class PartLabeller:
    """A loaded classifier and the two tables it fills: ``labels`` and its ``rejects``."""

    def __init__(self, recipe: LabelRecipe, checkpoint: str, labels: TableDirectory, rejects: TableDirectory) -> None:
        self.recipe, self.labels, self.rejects = recipe, labels, rejects
        self.classifier = Classifier.from_recipe(checkpoint, recipe)
        self._computed_on = f"{COMPUTED_ON}{chip_name(self.classifier.device)}"

    def commit(
        self,
        name: str,
        windows: Iterable[pa.Table],
        malformed: pa.Table | None = None,
        source_counts: Mapping[str, int] | None = None,
    ) -> tuple[Part, float]:
        """Label tables of record_id, text and the columns to keep, and commit them as one part, ``name``.

        Returns the part and the seconds the model worked. The part of ``rejects`` is committed first, even if empty,
        and is binding: if another attempt at this part, killed or still running, rejected other records, both use the
        committed rejects, so that no record is in both tables or in neither. ``malformed``:
        ``schema.SOURCE_REJECTS``, unreadable rows of the source, kept among the rejects. ``source_counts`` are added
        to the part's counts.
        """
        counts: Counter[str] = Counter(source_counts)
        per_label: Counter[str] = Counter()
        rows = PartWriter()
        rejected = [schema.CORPUS_REJECTS.empty_table()]
        num_records, busy_seconds = 0, 0.0
        for window, predictions in self._predict(windows):
            num_records += window.num_rows
            busy_seconds += predictions.busy_seconds
            for count in ("num_tokens", "num_padded_tokens", "num_truncated"):
                counts[count] += getattr(predictions, count)
            rows.add(self._labels(window, predictions))
            rejected.append(_rejects(window, predictions))
            per_label.update(label for label in predictions.labels if label is not None)
        if malformed is not None:
            rejected.append(malformed)
            num_records += malformed.num_rows
            counts[NUM_MALFORMED] = malformed.num_rows
        committed, num_other = self._commit_rejects(name, pa.concat_tables(rejected, promote_options="default"))
        if num_other:
            rows, num_dropped = _drop_records(rows, committed[schema.RECORD_ID])
            per_label -= num_dropped
        assert rows.num_rows + committed.num_rows == num_records, f"{name}: a record was lost"
        counts[self._computed_on] = rows.num_rows
        reasons = Counter(committed[schema.REJECT_REASON].to_pylist())
        part = self.labels.commit_rows(name, rows, counts=counts, labels=per_label, rejected=reasons)
        return part, busy_seconds

    def _predict(self, windows: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, Predictions]]:
        """The windows, each with its predictions."""
        pending: deque[pa.Table] = deque()

        def texts() -> Iterator[list[str]]:
            for window in windows:
                pending.append(window)
                # Only the characters that the tokenizer reads become Python strings.
                yield pc.utf8_slice_codeunits(window[schema.TEXT], 0, self.classifier.max_text_chars + 1).to_pylist()

        for predictions in self.classifier.stream(texts()):
            yield pending.popleft(), predictions

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
        """Commit the rejects, or read those that another attempt committed: ids and reasons, and how many of them
        were labelled here."""
        self.rejects.commit_part(name, rejected.combine_chunks())
        committed = self.rejects.read_part(name, [schema.RECORD_ID, schema.REJECT_REASON])
        ours, theirs = rejected[schema.RECORD_ID], committed[schema.RECORD_ID]
        lost = ours.filter(pc.invert(pc.is_in(ours, theirs)))
        if len(lost):
            raise RuntimeError(
                f"{name}: {len(lost)} records failed here that another attempt labelled, for example {lost[0]}"
            )
        return committed, pc.sum(pc.invert(pc.is_in(theirs, ours))).as_py() or 0


def _drop_records(rows: PartWriter, record_ids: pa.ChunkedArray) -> tuple[PartWriter, Counter[str]]:
    """``rows`` without those of ``record_ids``, and the number of dropped rows by label."""
    table = pq.read_table(pa.BufferReader(rows.content({}))).replace_schema_metadata(None)
    is_dropped = pc.is_in(table[schema.RECORD_ID], record_ids)
    kept = PartWriter()
    kept.add(table.filter(pc.invert(is_dropped)))
    return kept, Counter(table.filter(is_dropped)[schema.LABEL].to_pylist())


def read_windows(corpus: TableDirectory, name: str, columns: list[str]) -> Iterator[pa.Table]:
    """A corpus part in tables of at most ``WINDOW_RECORDS`` rows and, single rows aside, 32 MiB of text.

    Read a thousand rows at a time: memory does not depend on the size of the part. An empty part is one empty
    table.
    """
    with (
        corpus.reading(name),
        corpus.filesystem.open(corpus.path(name), "rb") as stream,
        pq.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True) as parquet,
    ):
        batches = parquet.iter_batches(batch_size=_ROWS_PER_READ, columns=columns)
        tables = (pa.Table.from_batches([batch]).select(columns) for batch in batches)
        sized = ((rows, rows.num_rows, pc.sum(pc.binary_length(rows[schema.TEXT])).as_py() or 0) for rows in tables)
        for window in group_by_size(sized, WINDOW_RECORDS, WINDOW_BYTES):
            yield pa.concat_tables(window)
        if not parquet.metadata.num_rows:
            yield parquet.schema_arrow.empty_table().select(columns)


def work_counts(part: Part) -> dict[str, int]:
    """Counts of a part of ``labels`` for the progress display: records, rejected records, tokens."""
    return {
        "num_records": part.num_in,
        "num_rejected": part.num_in - part.num_rows,
        "num_tokens": part.counts["num_tokens"],
        "num_padded_tokens": part.counts["num_padded_tokens"],
    }


def _rejects(window: pa.Table, predictions: Predictions) -> pa.Table:
    rows = sorted(predictions.failures)
    failed = window.take(pa.array(rows, pa.int64())).select([schema.RECORD_ID, schema.TEXT])
    reasons = pa.array([predictions.failures[row] for row in rows], pa.string())
    return failed.append_column(schema.REJECT_REASON, reasons).cast(schema.CORPUS_REJECTS)
