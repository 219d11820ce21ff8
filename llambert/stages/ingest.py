"""Ingest: a corpus as the user has it -> ``corpus`` (record_id, text, split, gold_label, kept columns).

Beside it ``corpus_rejects`` (source rows that are not records, each with its reason) and ``duplicates``
(records with the text of an earlier record). One source file is one unit of work; its parts are numbered within it.

A corpus that grows costs what is new: the parts of a file that has not changed are there, under the name that says what
it holds, and the file is not opened.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.corpora import checks, find_sources, gold
from llambert.corpora.chunks import read_chunks
from llambert.corpora.contents import compared_files, generation, read_contents, with_contents
from llambert.corpora.records import separate, source_columns
from llambert.corpora.rows import ENCODING_FAULTS, HIDDEN_FILES, UNDECODABLE, SourceFile, Sources, hidden_files_skipped
from llambert.errors import InputError
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.ray_executor import RAY
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.execution.stage_progress import StageProgress
from llambert.hashing import hash64
from llambert.printable import escaped
from llambert.recipe import digest
from llambert.run import Run
from llambert.storage.manifest import Growth, Manifest, Part, SourceUnit, total
from llambert.storage.run_directory import TableDirectory
from llambert.storage.set_aside import set_aside_manifest

_COUNTS = ("num_truncated", gold.NUM_UNKNOWN_GOLD, "num_malformed", ENCODING_FAULTS, HIDDEN_FILES)
_MAX_COMPARED = 1_000  # repeated hashes of IDs whose IDs are compared: more of them are no coincidence
_NUM_EXAMPLES = 3
_LAST_OF_UNIT = "last_of_unit"  # in the counts of a unit's last part: where it is, the unit is whole
_NUMBER = re.compile(r"\d+\.parquet$")


def ingest(run: Run, executor: Executor = RAY) -> Manifest:
    """Read the corpus' files into the ``corpus`` table; skipped when it is complete.

    Of a corpus that was read before, new and changed files alone. ``InputError`` if the source changes meanwhile.
    """
    if manifest := run.table("corpus").read_manifest():
        run.claim_generation()
        run.remove_replaced("corpus")
        _warn(run, manifest)
        return manifest
    progress = StageProgress("ingest", run.table("corpus"), unit="files")
    corpus = run.recipe.corpus
    gold.check(corpus, run.task.category_names)
    contents = read_contents(corpus)
    sources = with_contents(find_sources(corpus), contents)
    if skipped := hidden_files_skipped(sources.num_hidden):
        print(f"ingest: {skipped}", file=sys.stderr, flush=True)
    whole = _whole_units(run, sources)
    units = [source for source in sources.units if source.part_prefix not in whole]
    if not whole:  # of a corpus that grows, the files that were read before may have what the new ones lack
        checks.require_columns_early(units, corpus, source_columns(corpus))
    run.claim_generation()
    if contents.generation != run.generation:
        raise _changed(corpus.path)
    progress.run(executor, IngestFile, (run,), [asdict(source) for source in units], Pool(max_actors=4))
    if units and generation(corpus) != run.generation:
        _remove_parts(run, units)
        raise _changed(corpus.path)
    parts = [part for found in whole.values() for part in found]
    manifest = complete(run, sources, [*parts, *progress.parts], **progress.seconds)
    if manifest.growth:
        print(f"ingest: since the last run {manifest.growth.of_files}; {manifest.growth.of_records}", flush=True)
    _warn(run, manifest)
    return manifest


def _changed(path: str) -> InputError:
    return InputError(
        f"corpus.path: {path} changed while it was read; what did not change is kept: start the same command again "
        "when nothing writes there"
    )


def _remove_parts(run: Run, units: list[SourceFile]) -> None:
    """Remove the parts of units that may have changed while they were read: their names may say what they are not."""
    for name in ("corpus", "corpus_rejects", "corpus_keys"):
        table = run.table(name)
        for part in table.part_names():
            if part.startswith(tuple(unit.part_prefix for unit in units)):
                table.filesystem.rm_file(table.path(part))


def _whole_units(run: Run, sources: Sources) -> dict[str, list[Part]]:
    """Prefix -> parts of the units all of whose parts are there: as the last manifest says, or their last part."""
    table, wanted = run.table("corpus"), {source.part_prefix for source in sources.units}
    last = table.last_manifest()
    stored = set(table.part_names())
    whole: dict[str, list[Part]] = {}
    if last:
        listed = _by_unit(last.parts)
        for unit in last.sources:
            parts = listed.get(prefix := SourceFile(unit.key, "", "", 0, content=unit.content).part_prefix, [])
            if prefix in wanted and stored.issuperset(part.name for part in parts):
                whole[prefix] = parts
    rest = {name for name in stored if (prefix := _NUMBER.sub("", name)) in wanted and prefix not in whole}
    for prefix, parts in _by_unit(table.committed_parts(rest)).items():
        names = [f"{prefix}{number:06d}.parquet" for number in range(len(parts))]
        if [part.name for part in parts] == names and _LAST_OF_UNIT in parts[-1].counts:
            whole[prefix] = parts
    return whole


def _by_unit(parts: Iterable[Part]) -> dict[str, list[Part]]:
    """Prefix of part names -> the parts that have it, in their order."""
    found: dict[str, list[Part]] = {}
    for part in sorted(parts, key=lambda part: part.name):
        found.setdefault(_NUMBER.sub("", part.name), []).append(part)
    return found


def _warn(run: Run, manifest: Manifest) -> None:
    for line in checks.warnings(manifest.counts, run.recipe.corpus):
        print(f"ingest: {line}", file=sys.stderr, flush=True)


def complete(run: Run, sources: Sources, parts: list[Part], **seconds: Any) -> Manifest:
    """Check the corpus as a whole and write its manifests.

    ``InputError``: more malformed or undecodable rows than the recipe allows, a column that no row has, no record, no
    gold value that is a category, or record IDs that are not unique. ``seconds`` are the manifest's.
    """
    parts, corpus_table = sorted(parts, key=lambda part: sources.place(part.name)), run.table("corpus")
    counts, rejected = total(parts), total(parts, "rejected")
    counts[HIDDEN_FILES] += sources.num_hidden
    corpus = run.recipe.corpus
    faulty = dict.fromkeys(sources.place(part.name)[0] for part in parts if part.counts.get(UNDECODABLE))
    checks.require_decodable(counts, corpus, (sources.units[place] for place in faulty))
    # Where a record is made of many source rows (umls), the malformed ones are a share of those.
    _check_malformed(run, parts, counts["num_malformed"], counts["num_source_rows"] or counts["num_read"])
    checks.require_columns_somewhere(counts, corpus, sources.units, source_columns(corpus))
    if not sum(part.num_rows for part in parts):
        why = rejected or hidden_files_skipped(counts[HIDDEN_FILES]) or "it is empty"
        raise InputError(f"corpus.path: {corpus.path} has no record: {why}")
    checks.require_gold(counts, corpus, run.task.category_names)
    last = corpus_table.last_manifest() or set_aside_manifest(corpus_table)
    growth = _growth(run, last, sources, parts) if last and last.sources else None
    duplicates = run.complete("duplicates", [_find_duplicates(run, [part.name for part in parts])])
    counted = {
        **dict.fromkeys(_COUNTS, 0),
        **{key: num for key, num in sorted(counts.items()) if key.startswith("num_") and key != "num_read"},
        **gold.unknown_values(counts),
        "num_files": len(sources.units),
        "num_duplicates": duplicates.num_kept,
        "num_bytes": sum(source.num_bytes for source in sources.units),
    }
    told: dict[str, Any] = {"num_in": counts["num_read"], "counts": counted, "growth": growth}
    return run.complete("corpus", parts, rejected, sources=_described(sources, parts), **told, **seconds)


def _described(sources: Sources, parts: list[Part]) -> list[SourceUnit]:
    listed = _by_unit(parts)
    return [
        SourceUnit(
            key=unit.key,
            content=unit.content,
            name=escaped(unit.name),
            num_records=sum(part.num_rows for part in listed.get(unit.part_prefix, ())),
        )
        for unit in sources.units
    ]


def _growth(run: Run, last: Manifest, sources: Sources, parts: list[Part]) -> Growth | None:
    """What is new since the manifest ``last``; what that one says if it is of this generation.

    Reads the keys of what changed.
    """
    if last.generation == run.generation:
        return last.growth
    files = compared_files(
        {unit.name: unit.content for unit in last.sources}, {escaped(unit.name): unit.content for unit in sources.units}
    )
    both = {part.name for part in parts} & {part.name for part in last.parts}
    num_same = sum(part.num_rows for part in parts if part.name in both)
    ids, texts = _keys_of(run, [part.name for part in parts if part.name not in both])
    ids_before, texts_before = _keys_of(run, [part.name for part in last.parts if part.name not in both])
    _, places, places_before = np.intersect1d(ids, ids_before, return_indices=True)
    num_changed = int((texts[places] != texts_before[places_before]).sum())
    records = {
        "num_records_new": len(ids) - len(places),
        "num_records_changed": num_changed,
        "num_records_removed": len(ids_before) - len(places),
        "num_records_same": num_same + len(places) - num_changed,
    }
    is_of_groups = any(len(unit.members) > 1 for unit in sources.units)
    of = "group of files" if is_of_groups else "file"
    return files.model_copy(update={"since": last.generation, "files": of, **records})


def _keys_of(run: Run, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the record IDs and texts of some parts; of a part that was lost none."""
    keys = run.table("corpus_keys")
    stored = set(keys.part_names())
    tables = [keys.read_part(name) for name in names if name in stored]
    ids, texts = (
        np.concatenate([np.zeros(0, np.uint64), *(table[column].to_numpy() for table in tables)])
        for column in (schema.RECORD_ID_HASH, schema.TEXT_HASH)
    )
    return ids, texts


def _check_malformed(run: Run, made: list[Part], num_malformed: int, num_read: int) -> None:
    """``InputError`` with examples if more of the source than the recipe allows could not be read."""
    allowed = run.recipe.corpus.max_malformed_share
    if num_malformed <= allowed * num_read:
        return
    rejects = run.table("corpus_rejects")
    parts = (rejects.read_part(part.name).to_pylist() for part in made)
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
        parts = []
        for number, chunk in enumerate(read_chunks(source, self.recipe, self.columns)):
            name = source.part_name(number)
            if (committed := self.corpus.find_part(name)) is not None:
                parts.append(committed)
                continue
            made = separate(source, chunk, self.recipe, self.categories)
            # The corpus part comes last: where it is, its rejects and keys are too.
            self.rejects.commit_part(name, made.rejects)
            self.keys.commit_part(name, _keys(made.records))
            counted = {**made.counts, _LAST_OF_UNIT: 1} if chunk.is_last else made.counts
            parts.append(self.corpus.commit_part(name, made.records, counts=counted, rejected=made.rejected))
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
    hashes = both[schema.RECORD_ID_HASH].to_numpy()
    again, _ = _repeated(hashes)
    # Of four billion IDs two that differ may well share a hash: the IDs themselves decide.
    alike = np.flatnonzero(np.isin(hashes, hashes[again[:_MAX_COMPARED]]))
    occurrences = Counter(_ids_at(corpus, names, starts, alike))
    if repeated := [record_id for record_id, num in occurrences.items() if num > 1]:
        examples = ", ".join(f"{value!r:.100}" for value in repeated[:_NUM_EXAMPLES])
        raise InputError(f"corpus.columns.record_id: {len(again)} record IDs are not unique, for example {examples}")
    later, first = _repeated(both[schema.TEXT_HASH].to_numpy())
    table = pa.table(
        {
            schema.RECORD_ID: pa.array(_ids_at(corpus, names, starts, later), pa.string()),
            schema.DUPLICATE_OF: pa.array(_ids_at(corpus, names, starts, first), pa.string()),
        }
    )
    return run.table("duplicates").commit_part(f"part-{digest(run.generation)}.parquet", table)


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
