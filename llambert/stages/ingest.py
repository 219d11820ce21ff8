"""Ingest: a corpus as the user has it -> ``corpus`` (record_id, text, split, gold_label, kept columns).

Beside it ``corpus_rejects`` (source rows that are not records, each with its reason) and ``duplicates``
(records with the text of an earlier record). One source file is one unit of work; its parts are numbered within it.
"""

import sys
import time
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.corpora import checks, find_sources, gold
from llambert.corpora.chunks import read_chunks
from llambert.corpora.records import separate, source_columns
from llambert.corpora.rows import ENCODING_FAULTS, HIDDEN_FILES, UNDECODABLE, SourceFile, Sources, hidden_files_skipped
from llambert.errors import InputError
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.ray_executor import RAY
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.execution.stage_progress import StageProgress
from llambert.hashing import hash64
from llambert.run import Run
from llambert.storage.manifest import Manifest, Part, total
from llambert.storage.run_directory import TableDirectory

_COUNTS = ("num_truncated", gold.NUM_UNKNOWN_GOLD, "num_malformed", ENCODING_FAULTS, HIDDEN_FILES)
_NUM_EXAMPLES = 3


def ingest(run: Run, executor: Executor = RAY) -> Manifest:
    """Read the corpus' files into the ``corpus`` table; skipped when it is complete."""
    if manifest := run.table("corpus").read_manifest():
        _warn(run, manifest)
        return manifest
    progress = StageProgress("ingest", run.table("corpus"), unit="files")
    corpus = run.recipe.corpus
    gold.check(corpus, run.task.category_names)
    sources = find_sources(corpus)
    if skipped := hidden_files_skipped(sources.num_hidden):
        print(f"ingest: {skipped}", file=sys.stderr, flush=True)
    checks.require_columns_early(sources.units, corpus, source_columns(corpus))
    units = [asdict(source) for source in sources.units]
    progress.run(executor, IngestFile, (run,), units, Pool(max_actors=4))
    manifest = complete(run, sources, progress.parts, **progress.seconds)
    _warn(run, manifest)
    return manifest


def _warn(run: Run, manifest: Manifest) -> None:
    for line in checks.warnings(manifest.counts, run.recipe.corpus):
        print(f"ingest: {line}", file=sys.stderr, flush=True)


def complete(run: Run, sources: Sources, parts: list[Part], **seconds: Any) -> Manifest:
    """Check the corpus as a whole and write its manifests.

    ``InputError``: more malformed or undecodable rows than the recipe allows, a column that no row has, no record, no
    gold value that is a category, or record IDs that are not unique. ``seconds`` are the manifest's.
    """
    parts = sorted(parts, key=lambda part: sources.place(part.name))
    counts, rejected = total(parts), total(parts, "rejected")
    counts[HIDDEN_FILES] += sources.num_hidden
    corpus = run.recipe.corpus
    faulty = dict.fromkeys(sources.place(part.name)[0] for part in parts if part.counts.get(UNDECODABLE))
    checks.require_decodable(counts, corpus, (sources.units[place] for place in faulty))
    # Where a record is made of many source rows (umls), the malformed ones are a share of those.
    _check_malformed(run, counts["num_malformed"], counts["num_source_rows"] or counts["num_read"])
    checks.require_columns_somewhere(counts, corpus, sources.units, source_columns(corpus))
    if not sum(part.num_rows for part in parts):
        why = rejected or hidden_files_skipped(counts[HIDDEN_FILES]) or "it is empty"
        raise InputError(f"corpus.path: {corpus.path} has no record: {why}")
    checks.require_gold(counts, corpus, run.task.category_names)
    duplicates = run.complete("duplicates", [_find_duplicates(run, [part.name for part in parts])])
    counted = {
        **dict.fromkeys(_COUNTS, 0),
        **{key: num for key, num in sorted(counts.items()) if key.startswith("num_") and key != "num_read"},
        **gold.unknown_values(counts),
        "num_files": len(sources.units),
        "num_duplicates": duplicates.num_kept,
        "num_bytes": sum(source.num_bytes for source in sources.units),
    }
    return run.complete("corpus", parts, rejected, num_in=counts["num_read"], counts=counted, **seconds)


def _check_malformed(run: Run, num_malformed: int, num_read: int) -> None:
    """``InputError`` with examples if more of the source than the recipe allows could not be read."""
    allowed = run.recipe.corpus.max_malformed_share
    if num_malformed <= allowed * num_read:
        return
    rejects = run.table("corpus_rejects")
    parts = (rejects.read_part(name).to_pylist() for name in rejects.part_names())
    malformed = (row for rows in parts for row in rows if row[schema.SOURCE] is not None)
    examples = [_describe_reject(row) for row in islice(malformed, _NUM_EXAMPLES)]
    raise InputError(
        f"corpus.max_malformed_share: {num_malformed:,} of {num_read:,} rows cannot be read, which is more than "
        f"{allowed:.1%}: {'; '.join(examples)}; fix these rows, or raise the share"
    )


def _describe_reject(row: dict[str, Any]) -> str:
    line = "" if row[schema.LINE] is None else f":{row[schema.LINE]}"
    return f"{row[schema.SOURCE]}{line} ({row[schema.REJECT_REASON]})"


class IngestFile:
    """Reads one source file and commits its parts; what is committed already is left as it is."""

    def __init__(self, run: Run) -> None:
        self.recipe, self.categories = run.recipe.corpus, run.task.category_names
        self.columns = source_columns(self.recipe)
        self.corpus, self.rejects, self.keys = map(run.table, ("corpus", "corpus_rejects", "corpus_keys"))
        self.metrics = ReplicaMetrics(run.recipe.name, "ingest")

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Commit the parts of the source file that ``unit`` describes."""
        started = began = time.monotonic()
        source = SourceFile(**unit)
        committed = set(self.corpus.part_names())
        parts = []
        for number, chunk in enumerate(read_chunks(source, self.recipe, self.columns)):
            name = source.part_name(number)
            if name in committed:
                parts.append(self.corpus.committed_part(name))
                continue
            made = separate(source, chunk, self.recipe, self.categories)
            # The corpus part comes last: where it is, its rejects and keys are too.
            self.rejects.commit_part(name, made.rejects)
            self.keys.commit_part(name, _keys(made.records))
            parts.append(self.corpus.commit_part(name, made.records, counts=made.counts, rejected=made.rejected))
            counts = {"num_records": made.counts["num_read"], "num_rejected": made.rejects.num_rows}
            self.metrics.add(counts, time.monotonic() - began, name)
            began = time.monotonic()
        return Outcome(parts, busy_seconds=time.monotonic() - started)


def _keys(records: pa.Table) -> pa.Table:
    """Hashes of id and text: what the search for duplicates reads instead of the texts."""
    return pa.table([hash64(records[name]) for name in (schema.RECORD_ID, schema.TEXT)], schema.CORPUS_KEYS.names)


def _find_duplicates(run: Run, names: list[str]) -> Part:
    """Commit the part of ``duplicates``; ``InputError`` with examples if record IDs are not unique.

    Holds 16 bytes a record in the driver: 160 MB for ten million records.
    """
    keys, corpus = run.table("corpus_keys"), run.table("corpus")
    tables = [keys.read_part(name) for name in names]
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    both = pa.concat_tables(tables)
    again, _ = _repeated(both["record_id_hash"].to_numpy())
    if len(again):
        examples = ", ".join(repr(value) for value in _ids_at(corpus, names, starts, again[:_NUM_EXAMPLES]))
        raise InputError(f"corpus.columns.record_id: {len(again)} record IDs are not unique, for example {examples}")
    later, first = _repeated(both["text_hash"].to_numpy())
    table = pa.table(
        {
            schema.RECORD_ID: pa.array(_ids_at(corpus, names, starts, later), pa.string()),
            schema.DUPLICATE_OF: pa.array(_ids_at(corpus, names, starts, first), pa.string()),
        }
    )
    return run.table("duplicates").commit_part("part-00000.parquet", table)


def _repeated(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions of hashes that occurred earlier, and for each the position of the first occurrence."""
    _, first_positions, group = np.unique(hashes, return_index=True, return_inverse=True)
    first = first_positions[group]
    later = np.flatnonzero(first != np.arange(len(hashes)))
    return later, first[later]


def _ids_at(corpus: TableDirectory, names: list[str], starts: np.ndarray, positions: np.ndarray) -> list[str]:
    """Record ids at positions counted over all parts, reading only the parts they are in."""
    part_of = np.searchsorted(starts, positions, side="right") - 1
    found: dict[int, str] = {}
    for part in np.unique(part_of):
        ids = corpus.read_part(names[part], [schema.RECORD_ID])[schema.RECORD_ID]
        found.update({int(p): ids[int(p - starts[part])].as_py() for p in positions[part_of == part]})
    return [found[int(position)] for position in positions]
