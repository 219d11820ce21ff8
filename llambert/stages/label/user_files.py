"""Label files: any corpus and any checkpoint -> a folder of labels, without the rest of the method.

``OUTPUT/part-<key>-<chunk>.parquet`` (record_id, label, score, ...), ``OUTPUT/rejects/`` (``SOURCE_REJECTS``)
and ``OUTPUT/manifest.json``, written last. An interrupted start resumes.
"""

import sys
from collections import Counter
from dataclasses import asdict
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.classifier.inference import WINDOW_RECORDS, validate_checkpoint
from llambert.classifier.labelling import NUM_MALFORMED, PartLabeller, work_counts
from llambert.corpora import READER_VERSION, checks, find_sources
from llambert.corpora.chunks import Chunk, read_chunks
from llambert.corpora.contents import generation
from llambert.corpora.records import source_columns
from llambert.corpora.rows import HIDDEN_FILES, MISSING_COLUMN, SourceFile
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.devices import by_device, with_gpus
from llambert.execution.ray_executor import RAY
from llambert.execution.replica_metrics import ReplicaMetrics
from llambert.execution.stage_progress import StageProgress
from llambert.recipe import DEFAULTS_VERSION, LabelDtype, LabelRecipe, digest, label_fields, result_fields
from llambert.storage.manifest import Manifest, total
from llambert.storage.reference import content_identity, pin_commit, provide_model
from llambert.storage.run_directory import TableDirectory


def label_files(
    checkpoint: str, corpus: CorpusRecipe, output: str, recipe: LabelRecipe | None = None, executor: Executor = RAY
) -> Manifest:
    """Label every row of the files of ``corpus`` (its ``path``, ``format``, ``columns``, ``rows_per_part``).

    A row's id is that of ``columns.record_id``; without one, or where it is null, ``<key>-<row>``, the key made of the
    file's path within the corpus, rows counted from 0. Every row is labelled, blank texts too; a null text is rejected,
    and so is a row that cannot be read, with its file and line. Ids are not checked for repetition. ``recipe.keep``
    names source columns to pass through, as strings. ``InputError`` if ``output`` holds labels of other files, another
    checkpoint or other settings, or if more rows are malformed than ``corpus.max_malformed_share``; what is labelled is
    kept then.
    """
    recipe = recipe or LabelRecipe()
    checkpoint = pin_commit(checkpoint)
    validate_checkpoint(checkpoint, recipe.trust_remote_code)
    identity = content_identity(checkpoint)
    labels, recipe = _labels_table(output.rstrip("/"), corpus, identity, recipe, executor)
    rejects = TableDirectory(f"{labels.uri}/rejects")
    if manifest := _existing_manifest(labels):
        return manifest
    recipe = with_gpus(recipe, executor)
    progress = StageProgress("label", labels, unit="files")
    corpus = corpus.model_copy(update={"columns": corpus.columns.model_copy(update={"keep": recipe.keep})})
    sources = find_sources(corpus)
    checks.require_columns_early(sources.units, corpus, source_columns(corpus))
    checks.require_decodable_head(sources.units[0], corpus, source_columns(corpus))
    units = [asdict(source) for source in sources.units]
    actors = (recipe.min_actors, recipe.max_actors, recipe.cpus_per_actor, recipe.gpus_per_actor or 0.0)
    pool = Pool(*actors, recipe.max_attempts, recipe.node_resource)
    opened = provide_model(checkpoint, None, f"{labels.uri}/models", spans_machines=executor.spans_machines)
    progress.run(executor, LabelFile, (recipe, opened, corpus, labels, rejects), units, pool)
    parts = sorted(progress.parts, key=lambda part: sources.place(part.name))
    totals, num_rows = total(parts), sum(part.num_in for part in parts)
    totals[HIDDEN_FILES] += sources.num_hidden
    _check(totals, num_rows, sources.units, corpus, rejects)
    return labels.complete(
        "label",
        parts,
        recipe=recipe.model_dump(mode="json"),
        model=checkpoint,
        model_identity=identity,
        counts={key: num for key, num in sorted(totals.items()) if not key.startswith(MISSING_COLUMN)},
        **progress.seconds,
    )


class LabelFile:
    """The classifier, loaded once; called with one source file at a time."""

    def __init__(
        self,
        recipe: LabelRecipe,
        checkpoint: str,
        corpus: CorpusRecipe,
        labels: TableDirectory,
        rejects: TableDirectory,
    ) -> None:
        self.metrics = ReplicaMetrics(labels.uri, "label", recipe.gpus_per_actor or 0.0)
        self.labeller = PartLabeller(recipe, checkpoint, labels, rejects)
        self.corpus, self.keep = corpus, recipe.keep
        named = [corpus.columns.text, *([corpus.record_id] if corpus.record_id else []), *recipe.keep]
        self.columns = list(dict.fromkeys(named))

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Commit the parts of one source file; those committed already are left as they are."""
        source, labels = SourceFile(**unit), self.labeller.labels
        parts, busy_seconds = [], 0.0
        for number, chunk in enumerate(read_chunks(source, self.corpus, self.columns)):
            name = source.part_name(number)
            if (committed := labels.find_part(name)) is not None:
                parts.append(committed)
                continue
            records = self._records(source, chunk)
            starts = range(0, max(records.num_rows, 1), WINDOW_RECORDS)
            windows = self.metrics.reading(records.slice(start, WINDOW_RECORDS) for start in starts)
            part, part_seconds = self.labeller.commit(name, windows, chunk.malformed_rejects(source), chunk.counts)
            self.metrics.add(work_counts(part), part_seconds, part.name)
            parts.append(part)
            busy_seconds += part_seconds
        return Outcome(parts, busy_seconds, replica=self.metrics.replica)

    def _records(self, source: SourceFile, chunk: Chunk) -> pa.Table:
        rows = chunk.records(self.columns)
        numbers = range(chunk.first_row, chunk.first_row + rows.num_rows)
        ids = pa.chunked_array([[f"{source.key}-{row:09d}" for row in numbers]], pa.string())
        if self.corpus.record_id:
            ids = pc.coalesce(rows[self.corpus.record_id], ids)
        kept = {name: rows[name] for name in self.keep}
        return pa.table({schema.RECORD_ID: ids, schema.TEXT: rows[self.corpus.columns.text], **kept})


def _check(
    totals: Counter[str], num_rows: int, sources: list[SourceFile], corpus: CorpusRecipe, rejects: TableDirectory
) -> None:
    counts = {**totals, "num_read": num_rows, "num_malformed": totals[NUM_MALFORMED]}
    checks.require_decodable(counts, corpus, sources)
    checks.require_columns_somewhere(counts, corpus, sources, source_columns(corpus))
    for line in checks.warnings(counts, corpus):
        print(f"label: {line}", file=sys.stderr, flush=True)
    if totals[NUM_MALFORMED] > corpus.max_malformed_share * num_rows:
        raise InputError(
            f"corpus.max_malformed_share: {totals[NUM_MALFORMED]:,} of {num_rows:,} rows cannot be read, which is more "
            f"than {corpus.max_malformed_share:.1%}; {rejects.uri} says which and why; fix these rows, or raise "
            "the share"
        )


def _labels_table(
    uri: str, corpus: CorpusRecipe, model_identity: str, recipe: LabelRecipe, executor: Executor
) -> tuple[TableDirectory, LabelRecipe]:
    """The table, and the recipe with its dtype: what it says, or that in which the labels were begun, or by device."""
    source = generation(corpus)

    def fingerprint(dtype: LabelDtype) -> str:
        fields = [result_fields(corpus), label_fields(recipe, dtype)]
        return digest(DEFAULTS_VERSION, source, model_identity, fields, READER_VERSION)

    dtype = recipe.stated_dtype
    if dtype is None:
        begun = _found_fingerprint(TableDirectory(uri))
        dtype = next((each for each in get_args(LabelDtype) if fingerprint(each) == begun), None)
    dtype = dtype or by_device(recipe, executor)
    return TableDirectory(uri, schema.LABELS, fingerprint(dtype)), recipe.model_copy(update={"dtype": dtype})


def _found_fingerprint(labels: TableDirectory) -> str | None:
    """That of the labels in a folder; None if it has none, or does not say."""
    manifest = labels.read_manifest()
    return manifest.fingerprint if manifest else labels.read_progress().get("fingerprint")


def _existing_manifest(labels: TableDirectory) -> Manifest | None:
    """The manifest of these very labels if they are complete; ``InputError`` if others are in their place."""
    found = _found_fingerprint(labels)
    if found != labels.fingerprint and (found is not None or labels.part_names()):
        raise InputError(f"{labels.uri}: holds labels of other files, checkpoint or settings; choose an empty folder")
    return labels.read_manifest()
