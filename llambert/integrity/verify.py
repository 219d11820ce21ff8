"""Proof that a run's tables are whole: every file there and unaltered, every record in exactly once.

Each part is read once (``record_ids.py``: what is kept of it).
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from llambert.errors import InputError
from llambert.integrity.finding import Finding, FindingKind
from llambert.integrity.part_checks import check_file, check_part, fault
from llambert.integrity.peoples_answers_checks import check_peoples_answers
from llambert.integrity.record_ids import RecordIds, check_coverage, check_unique
from llambert.integrity.store_checks import check_store
from llambert.run import Run
from llambert.storage.manifest import MANIFEST, Manifest, Part, content_of, total
from llambert.storage.part_file import is_part
from llambert.storage.run_directory import PROGRESS, TableDirectory
from llambert.tables import TableSpec

_PART_READERS = 4
_STORES = {"answers": check_store, "people": check_peoples_answers}


def verify(run: Run) -> list[Finding]:
    """All faults of the tables of ``run``.

    Per table: its manifest is there and its sums are right; the tables that it was completed with are there and are
    those; each of its parts and other files is there, has the bytes, rows, counts, schema and values that it must have,
    and no other file is there; record IDs are unique. The parts of an incomplete table can be read, and so can those of
    the answer store, which hold the answers that the responses refer to, and the saved answers of people. Across
    tables: labels and their rejects cover the corpus, silver labels and theirs the sample, a certificate its sample and
    decisions the labels; what these were made from is there; and the checkpoint is the one that made the labels.

    They are the tables of the generation of the corpus that was read last: that the source has changed since is no
    fault (``source_changes.py``).
    """
    run = run.last_read()
    manifests, findings = _read_manifests(run)
    findings += _check_companions(run, manifests, {finding.table for finding in findings})
    with tempfile.TemporaryDirectory(prefix="llambert-verify-") as folder:
        ids = RecordIds(run, manifests, folder)
        for name, manifest in list(manifests.items()):
            spec, directory = run.tables[name], run.table(name)
            problems = _manifest_problems(spec, directory, manifest)
            findings += [Finding(FindingKind.MANIFEST, name, None, problem) for problem in problems]
            findings += _check_table(spec, directory, manifest, ids)
        for spec in run.tables:
            if spec.is_store:
                findings += _STORES[spec.name](run, spec, manifests)
        for name in manifests:
            findings += check_unique(ids, [name])
        for table in run.tables:
            names = [one.name for one in run.tables.together(table.name) if one.has_ids]
            if table.covers and {*names, table.covers} <= manifests.keys():
                findings += check_coverage(ids, names, table.covers)
    return [*findings, *_check_models(run, manifests)]


def _read_manifests(run: Run) -> tuple[dict[str, Manifest], list[Finding]]:
    """The manifests of the complete tables, and what is wrong with the others."""
    manifests: dict[str, Manifest] = {}
    findings: list[Finding] = []
    needed = run.tables.needed(run.recipe)
    checked = [table for table in run.tables if table.is_checked]
    for table in sorted(checked, key=lambda table: not table.is_required):
        name, directory = table.name, run.table(table.name)
        try:
            manifest = directory.read_manifest()
        except InputError as error:
            findings.append(Finding(FindingKind.MANIFEST, name, None, fault(error)))
            findings += _check_unfinished(run, table)
            continue
        if manifest is not None:
            manifests[name] = manifest
        elif table.copy_of and name not in needed:
            continue  # of an earlier generation or recipe: nothing is made of it
        elif name in needed or (table.written_with is None and directory.file_names() - {PROGRESS}):
            findings.append(Finding(FindingKind.INCOMPLETE, name, None, f"not complete: it has no {MANIFEST}"))
            findings += _check_unfinished(run, table)
    return manifests, [*findings, *_check_upstream(run, manifests, {finding.table for finding in findings})]


def _check_upstream(run: Run, manifests: dict[str, Manifest], named: set[str]) -> Iterator[Finding]:
    """Tables that no recipe needs by itself and that a complete one was made from; ``named`` have a finding already."""
    for name, manifest in manifests.items():
        for other in sorted(manifest.upstream.keys() - manifests.keys() - named):
            if other in run.tables and run.tables[other].is_checked and not run.tables[other].is_required:
                named.add(other)
                yield Finding(FindingKind.INCOMPLETE, other, None, f"it has no {MANIFEST}, and {name} was made from it")


def _check_unfinished(run: Run, spec: TableSpec) -> Iterator[Finding]:
    """The parts committed so far of a table without a manifest, and of those written with it: without its sums."""
    if spec.is_files or spec.written_with:
        return
    beside = [table.name for table in run.tables.together(spec.name) if table.is_by_part]
    yield from _check_unlisted(run, spec.name, set())
    for name in beside:
        yield from _check_unlisted(run, name, _stored_parts(run.table(spec.name)))


def _check_unlisted(run: Run, name: str, wanted: set[str]) -> Iterator[Finding]:
    """Parts that no manifest vouches for: those of ``wanted`` must be there, and all be as they were written."""
    table = run.table(name)
    stored = _stored_parts(table)
    for part in sorted(wanted - stored):
        problem = f"the part is missing, that of {run.tables.leader(name).name} is there"
        yield Finding(FindingKind.MISSING_PART, name, part, problem)
    for part in sorted(stored):
        try:
            table.check_part(part)
        except InputError as error:
            yield Finding(FindingKind.UNREADABLE, name, part, fault(error))


def _check_companions(run: Run, manifests: dict[str, Manifest], named: set[str]) -> Iterator[Finding]:
    """Whether the tables that each was completed with are there, and are those; ``named`` have a finding already."""
    for name, manifest in manifests.items():
        for other, content in manifest.belongs_with.items():
            found = manifests.get(other)
            if found and found.content == content:
                continue
            if run.tables[name].copy_of == other:
                if found:
                    yield Finding(FindingKind.OTHER_COMPANION, name, None, f"it is a copy of other {other}")
                continue
            if found is None and other not in named:
                problem = f"it has no {MANIFEST}, and {name} was completed with it"
                yield Finding(FindingKind.INCOMPLETE, other, None, problem)
            wanted = {part.name for part in manifest.parts} if run.tables[other].is_by_part else set()
            damaged = [] if found else list(_check_unlisted(run, other, wanted))
            yield from damaged
            table = run.table(other)
            parts = _stored_parts(table)
            if found or (parts and not damaged and content_of(map(table.committed_part, parts)) != content):
                redo = tuple((other, part) for part in sorted(parts))
                problem = f"it is not the table that {name} was completed with"
                yield Finding(FindingKind.OTHER_COMPANION, other, None, problem, redo)


def _check_table(spec: TableSpec, table: TableDirectory, manifest: Manifest, ids: RecordIds) -> Iterator[Finding]:
    name, there = spec.name, table.file_names()
    for unexpected, problem in _unexpected(spec, table, manifest, there):
        yield Finding(FindingKind.UNEXPECTED_PART, name, unexpected, problem)
    parts = manifest.parts
    files = [*(parts if spec.is_files else []), *manifest.files]
    for part in [*parts, *manifest.files]:
        if part.name not in there:
            what = "part" if is_part(part.name) else "file"
            yield Finding(FindingKind.MISSING_PART, name, part.name, f"the {what} is missing")
    for part in files:
        for kind, problem in check_file(table, part) if part.name in there else ():
            yield Finding(kind, name, part.name, problem)
    if not spec.is_files:
        yield from _check_parts(spec, table, [part for part in parts if part.name in there], ids)


def _check_parts(spec: TableSpec, table: TableDirectory, parts: list[Part], ids: RecordIds) -> Iterator[Finding]:
    """The Parquet parts that are there: each by itself, and whether all have one schema."""
    schemas: dict[str, pa.Schema] = {}
    categories = ids.run.task.category_names
    with ThreadPoolExecutor(_PART_READERS) as readers:
        results = readers.map(lambda part: check_part(table, part, spec.has_ids, categories), parts)
        for part, checked in zip(parts, results, strict=True):
            for kind, problem in checked.problems:
                yield Finding(kind, spec.name, part.name, problem)
            if checked.arrow_schema is not None:
                schemas[part.name] = checked.arrow_schema
            ids.add(spec.name, checked.hashes)
    # Any of them may be the altered one: that of most parts is right, and where there is none, all are made again.
    votes = Counter(str(one) for one in schemas.values()).most_common(2)
    usual = None if len(votes) > 1 and votes[0][1] == votes[1][1] else votes[:1]
    for name, found in schemas.items():
        if not usual or str(found) != usual[0][0]:
            other = next(one for one in schemas if not schemas[one].equals(found))
            yield Finding(FindingKind.SCHEMA, spec.name, name, f"its schema differs from that of {other}")


def _unexpected(
    spec: TableSpec, table: TableDirectory, manifest: Manifest, there: set[str]
) -> Iterator[tuple[str, str]]:
    """What lies in the folder and does not belong there: it is none of the table's, nor hidden."""
    listed = {part.name for part in (*manifest.parts, *manifest.files)}
    if PROGRESS in there and not table.read_progress():
        yield PROGRESS, "it does not say how far the stage is"
    for name in sorted(there - listed - {MANIFEST, PROGRESS}):
        is_hidden = any(step.startswith(".") for step in name.split("/"))
        if not is_hidden and not (spec.may_hold_more and is_part(name)):
            yield name, f"a {'part' if is_part(name) else 'file'} that the manifest does not know"


def _stored_parts(table: TableDirectory) -> set[str]:
    """The names of a table's parts, those in folders below it too."""
    return {name for name in table.file_names() if is_part(name)}


def _manifest_problems(spec: TableSpec, table: TableDirectory, manifest: Manifest) -> Iterator[str]:
    """What contradicts itself in a manifest, whatever the parts are."""
    if manifest.fingerprint != table.fingerprint:
        yield f"the manifest is of fingerprint {manifest.fingerprint}, the folder of {table.fingerprint}"
    if manifest.seal and manifest != manifest.sealed():
        yield "the manifest is not the one that was written: its seal is of another"
    parts = manifest.parts
    for part_name, num in Counter(part.name for part in parts).items():
        if num > 1:
            yield f"the manifest lists {part_name} {num} times"
    if spec.is_files:
        return  # _check_models
    num_rows = sum(part.num_rows for part in parts)
    expected = manifest.num_in if spec.holds_rejected else manifest.num_kept
    if num_rows != expected:
        yield f"the manifest says {expected:,} rows, its parts together {num_rows:,}"
    totals, per_label = total(parts), total(parts, "labels")
    for key in sorted(manifest.counts.keys() & totals.keys()):
        if manifest.counts[key] != totals[key]:
            yield f"the manifest counts {manifest.counts[key]:,} {key}, its parts together {totals[key]:,}"
    for label in sorted(manifest.labels.keys() | per_label.keys()):
        counted, summed = manifest.labels.get(label, 0), per_label.get(label, 0)
        if counted != summed:
            yield f"the manifest counts {counted:,} rows labelled {label}, its parts together {summed:,}"


def _check_models(run: Run, manifests: dict[str, Manifest]) -> Iterator[Finding]:
    """Whether model files still are what made the tables."""
    for table in run.tables:
        made, files = manifests.get(table.name), table.model_files
        if made is None or files not in manifests:
            continue
        if made.model_identity != manifests[files].content:
            redo = tuple((table.name, part.name) for part in made.parts)
            problem = f"its files are not those that the {table.name} were made with"
            yield Finding(FindingKind.OTHER_CHECKPOINT, files, None, problem, redo)
