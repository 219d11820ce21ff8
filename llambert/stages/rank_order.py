"""Records put in a given order, however large they are together: as ``sample`` and the tables like it are written."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.part_names import part_name

# While records are put in order at most this many windows of them are files on the driver's disk, and one is in its
# memory: a 64th of the records, or 16 parts where that is more.
_MAX_WINDOWS = 64
MIN_PARTS_PER_WINDOW = 16


def in_rank_order(
    tables: Iterable[pa.Table], record_ids: pa.Array, columns: pa.Schema, size: int
) -> Iterator[tuple[str, pa.Table]]:
    """The rows of ``tables`` that have these ids, in their order: names and rows of parts of ``size`` records.

    ``columns``: of the result; ``tables`` have them, and are read once. Their rows wait on disk, window by window of
    ranks.
    """
    num = len(record_ids)
    per_window = max(-(-num // (_MAX_WINDOWS * size)), MIN_PARTS_PER_WINDOW) * size
    with tempfile.TemporaryDirectory(prefix="llambert-order-") as folder:
        _spill(tables, record_ids, columns, per_window, Path(folder))
        for first in range(0, num, per_window):
            with pa.OSFile(str(_window_path(folder, first // per_window))) as file:
                window = pa.ipc.open_stream(file).read_all().sort_by("rank").select(columns.names)
            assert window.num_rows == min(per_window, num - first), "a record to be put in order is missing"
            for start in range(first, min(first + per_window, num), size):
                rows = window.slice(start - first, size).cast(columns)
                yield part_name(start, start + rows.num_rows), rows


def _spill(tables: Iterable[pa.Table], record_ids: pa.Array, columns: pa.Schema, per_window: int, folder: Path) -> None:
    """Write the chosen rows, as the tables are read, to one Arrow file per window of ``per_window`` ranks."""
    spilled = pa.schema([pa.field("rank", pa.int64()), *columns])
    num_windows = -(-len(record_ids) // per_window)
    writers = [pa.ipc.new_stream(_window_path(folder, window), spilled) for window in range(num_windows)]
    try:
        for table in tables:
            ranks = pc.index_in(table[schema.RECORD_ID], value_set=record_ids).cast(pa.int64())
            chosen = table.append_column("rank", ranks).filter(pc.is_valid(ranks)).select(spilled.names)
            windows = pc.divide(chosen["rank"], per_window)
            for window in pc.unique(windows).to_pylist():
                writers[window].write_table(chosen.filter(pc.equal(windows, window)).cast(spilled))
    finally:
        for writer in writers:
            writer.close()


def _window_path(folder: str | Path, window: int) -> str:
    return str(Path(folder) / f"window-{window:03d}.arrow")
