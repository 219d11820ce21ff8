"""The records an annotator is shown: the sample it is asked about, and gold shots where the recipe draws them.

``sample`` is in sampling order, part by part, so its first n rows are the sample of n records: a reader that
wants n records of a table that holds more takes the first n. Gold labels are read for gold shots alone.
"""

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.errors import InputError
from llambert.prompts import Shot
from llambert.run import Run
from llambert.run_directory import Manifest, Part, TableDirectory
from llambert.sampling import IdSource, Selection, select, select_stratified
from llambert.stages.ranks import part_name
from llambert.tasks import Task

# While the sample is put in order at most this many windows of it are files on the driver's disk, and one is in
# its memory: a 64th of the sample's texts, or 16 parts where that is more.
_MAX_WINDOWS = 64
_MIN_PARTS_PER_WINDOW = 16

logger = logging.getLogger(__name__)


def draw_sample(run: Run) -> Manifest:
    """Write the ``sample`` table (record_id, text) in sampling order; skipped when complete.

    Duplicates and gold shots are left out. Where fewer records are eligible than ``annotator.num_records``, all
    are taken and the difference stands in the manifest's counts as ``num_short``. Driver memory: the sample's ids
    and hashes, one part of the corpus, and a window of texts (``_MAX_WINDOWS``), and of a stratified sample the
    ids of all duplicates; two passes over the corpus, the first of which reads ids alone, at about a million a
    second.
    """
    table = run.table("sample")
    if manifest := table.read_manifest():
        return manifest
    started = time.monotonic()
    annotator = run.recipe.annotator
    shots = draw_shots(run).num_kept if annotator.gold_shots else 0
    selection = _select(run)
    num_selected = len(selection)
    if num_selected < annotator.num_records:
        logger.warning("annotator.num_records: %d asked for, %d are there", annotator.num_records, num_selected)
    parts = list(_write_sample(run, selection))
    num_records = run.table("corpus").require_manifest().num_kept
    num_duplicates = run.table("duplicates").require_manifest().num_kept
    rejected = {
        "duplicate": num_duplicates,
        "shot": shots,
        "not_sampled": num_records - num_duplicates - shots - num_selected,
    }
    return table.write_manifest(
        Manifest(
            stage="sample",
            fingerprint=run.fingerprints["sample"],
            upstream={"corpus": run.fingerprints["corpus"]},
            recipe={
                "num_records": annotator.num_records,
                "seed": annotator.seed,
                "stratify_by": annotator.stratify_by,
            },
            num_in=num_records,
            num_kept=num_selected,
            num_rejected={reason: num for reason, num in rejected.items() if num or reason != "shot"},
            counts={"num_short": annotator.num_records - num_selected},
            wall_seconds=time.monotonic() - started,
            parts=parts,
        )
    )


def _select(run: Run) -> Selection:
    annotator = run.recipe.annotator
    apart = [run.table("duplicates")] + ([run.table("shots")] if annotator.gold_shots else [])
    if annotator.stratify_by is None:
        return select(_ids(run.table("corpus")), _ids(*apart), annotator.num_records, annotator.seed)
    corpus, column = run.table("corpus"), _stratum_column(run)

    def read() -> Iterator[tuple[pa.ChunkedArray, pa.ChunkedArray]]:
        for table in corpus.iter_tables([schema.RECORD_ID, column]):
            yield table[schema.RECORD_ID], table[column]

    excluded = [ids.combine_chunks() for ids in _ids(*apart).read()]
    return select_stratified(
        read,
        pa.concat_arrays([pa.array([], pa.string()), *excluded]),
        annotator.num_records,
        annotator.seed,
    )


def _stratum_column(run: Run) -> str:
    """``annotator.stratify_by``, if the corpus has it and people's answers do not stand there."""
    column, corpus = run.recipe.annotator.stratify_by, run.recipe.corpus
    possible = [schema.SPLIT, *corpus.columns.keep]
    if column not in possible:
        raise InputError(
            f"annotator.stratify_by: the corpus table has no column {column!r} to sample by; it has "
            f"{', '.join(possible)} (corpus.columns.keep adds more)"
        )
    return str(column)


def draw_shots(run: Run) -> Manifest:
    """Write the ``shots`` table: gold records, of each category as many as of any other, to one; skipped when complete.

    The records of each category in the order of their sampling hashes under ``gold_shots.seed``; the first of
    each, in the order of their hashes, then the second of each: the shots of n are the first n of those of more.
    ``InputError`` where there are not enough.
    """
    table, annotator = run.table("shots"), run.recipe.annotator
    if manifest := table.read_manifest():
        return manifest
    started = time.monotonic()
    assert annotator.gold_shots is not None, "the recipe asks for no gold shots"
    if not annotator.num_shots:
        raise InputError("annotator.num_shots: say how many shots to draw from gold records")
    rows = _choose_shots(run, annotator.num_shots)
    return table.write_manifest(
        Manifest(
            stage="shots",
            fingerprint=run.fingerprints["shots"],
            upstream={"corpus": run.fingerprints["corpus"]},
            recipe={"num_shots": annotator.num_shots, **annotator.gold_shots.model_dump(mode="json")},
            num_in=rows.num_rows,
            num_kept=rows.num_rows,
            wall_seconds=time.monotonic() - started,
            parts=[table.commit_part("part-0.parquet", rows)],
        )
    )


def _choose_shots(run: Run, num_shots: int) -> pa.Table:
    names, seed = run.task.category_names, run.recipe.annotator.gold_shots.seed  # type: ignore[union-attr]
    per_category = -(-num_shots // len(names))
    found = {name: Selection.empty() for name in names}
    texts: dict[str, str] = {}
    for rows in _shot_candidates(run):
        for name in names:
            of_name = rows.filter(pc.equal(rows[schema.GOLD_LABEL], name))
            smallest = Selection.smallest(of_name[schema.RECORD_ID], per_category, seed)
            found[name] = found[name].merge(smallest, per_category)
            chosen = of_name.filter(pc.is_in(of_name[schema.RECORD_ID], value_set=found[name].record_ids))
            texts |= dict(zip(chosen[schema.RECORD_ID].to_pylist(), chosen[schema.TEXT].to_pylist(), strict=True))
    ordered = sorted(
        (turn, hashed, record_id, name)
        for name, of_name in found.items()
        for turn, (hashed, record_id) in enumerate(
            zip(of_name.hashes.tolist(), of_name.record_ids.to_pylist(), strict=True)
        )
    )[:num_shots]
    nums = {name: len(of_name) for name, of_name in found.items()}
    if len(ordered) < num_shots or min(nums.values()) < num_shots // len(names):
        raise InputError(
            f"annotator.gold_shots: {num_shots} shots need {per_category} gold records of each category that are "
            f"no longer than max_chars and not in split 'test'; the corpus has {nums}"
        )
    columns = {
        schema.RECORD_ID: [record_id for _, _, record_id, _ in ordered],
        schema.TEXT: [texts[record_id] for _, _, record_id, _ in ordered],
        schema.GOLD_LABEL: [name for _, _, _, name in ordered],
    }
    return pa.table(columns, schema=schema.SHOTS)


def _shot_candidates(run: Run) -> Iterator[pa.Table]:
    """Gold records that may be shown: of split ``train`` if there is one, never of ``test``, short, no duplicates."""
    corpus, gold_shots = run.table("corpus"), run.recipe.annotator.gold_shots
    assert gold_shots is not None
    splits = corpus.iter_tables([schema.SPLIT])
    has_train = any(pc.any(pc.equal(rows[schema.SPLIT], "train")).as_py() for rows in splits)
    duplicates = [pa.array([], pa.string()), *(ids.combine_chunks() for ids in _ids(run.table("duplicates")).read())]
    excluded = pa.concat_arrays(duplicates)
    for rows in corpus.iter_tables([schema.RECORD_ID, schema.TEXT, schema.SPLIT, schema.GOLD_LABEL]):
        split = rows[schema.SPLIT]
        is_open = pc.equal(split, "train") if has_train else pc.not_equal(split, "test")
        is_short = pc.less_equal(pc.utf8_length(rows[schema.TEXT]), gold_shots.max_chars)
        is_first = pc.invert(pc.is_in(rows[schema.RECORD_ID], value_set=excluded))
        yield rows.filter(pc.and_(pc.and_(is_open, is_short), is_first))


def prompted_task(run: Run) -> Task:
    """The run's task with the shots that its annotator is shown; they must have been drawn, if drawn they are."""
    if run.recipe.annotator.gold_shots is None:
        return run.task
    rows = run.table("shots").read().to_pylist()
    shots = tuple(Shot(text=row[schema.TEXT], label=row[schema.GOLD_LABEL]) for row in rows)
    return run.task.with_shots(run.recipe.annotator.prompt, shots)


def _ids(*tables: TableDirectory) -> IdSource:
    """The ids of tables that share none."""
    parts = [(table, part) for table in tables for part in table.require_manifest().parts]

    def read() -> Iterator[pa.ChunkedArray]:
        for table, part in parts:
            yield table.read_part(part.name, [schema.RECORD_ID])[schema.RECORD_ID]

    return IdSource(read, sum(part.num_rows for _, part in parts))


def _write_sample(run: Run, selection: Selection) -> Iterator[Part]:
    """Commit the sample's parts: one pass over the texts into windows of ranks on disk, then window by window."""
    size, num = run.recipe.annotator.records_per_part, len(selection)
    per_window = max(-(-num // (_MAX_WINDOWS * size)), _MIN_PARTS_PER_WINDOW) * size
    with tempfile.TemporaryDirectory(prefix="llambert-sample-") as folder:
        _spill(run.table("corpus"), selection, per_window, Path(folder))
        for first in range(0, num, per_window):
            with pa.OSFile(str(_window_path(folder, first // per_window))) as file:
                window = pa.ipc.open_stream(file).read_all().sort_by("rank").select(schema.SAMPLE.names)
            assert window.num_rows == min(per_window, num - first), "a sampled record is missing from the corpus"
            for start in range(first, min(first + per_window, num), size):
                rows = window.slice(start - first, size).cast(schema.SAMPLE)
                yield run.table("sample").commit_part(part_name(start, start + rows.num_rows), rows)


def _spill(corpus: TableDirectory, selection: Selection, per_window: int, folder: Path) -> None:
    """Write the selected records, as the corpus is read, to one Arrow file per window of ``per_window`` ranks."""
    spilled = pa.schema([pa.field("rank", pa.int64()), *schema.SAMPLE])
    num_windows = -(-len(selection) // per_window)
    writers = [pa.ipc.new_stream(_window_path(folder, window), spilled) for window in range(num_windows)]
    try:
        for table in corpus.iter_tables([schema.RECORD_ID, schema.TEXT]):
            ranks = pc.index_in(table[schema.RECORD_ID], value_set=selection.record_ids).cast(pa.int64())
            chosen = table.append_column("rank", ranks).filter(pc.is_valid(ranks)).select(spilled.names)
            windows = pc.divide(chosen["rank"], per_window)
            for window in pc.unique(windows).to_pylist():
                writers[window].write_table(chosen.filter(pc.equal(windows, window)).cast(spilled))
    finally:
        for writer in writers:
            writer.close()


def _window_path(folder: str | Path, window: int) -> str:
    return str(Path(folder) / f"window-{window:03d}.arrow")
