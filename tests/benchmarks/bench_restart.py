"""How long a restart takes to check one committed part, and how much it reads: its footer against the whole file.

    python -m tests.benchmarks.bench_restart [--megabytes 50] [--rounds 20]

The part is in the page cache for both, so the ratio is that of the work; over a network it is that of the bytes.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from llambert import schema
from llambert.storage.part_file import PartWriter
from llambert.storage.run_directory import TableDirectory

NAME = "part-00000.parquet"
ROWS_PER_BATCH = 2_000


def write_part(table: TableDirectory, num_bytes: int) -> int:
    """Commit a part of about ``num_bytes`` of records whose texts hardly compress; its size."""
    chance, rows, size = random.Random(0), PartWriter(), 0
    while size < num_bytes:
        ids = [f"r{rows.num_rows + n:09d}" for n in range(ROWS_PER_BATCH)]
        texts = [chance.randbytes(200).hex() for _ in ids]
        rows.add(pa.table([ids, texts, ["all"] * len(ids), pa.nulls(len(ids), pa.string())], schema=schema.CORPUS))
        size += 200 * len(ids)
    return table.commit_rows(NAME, rows, {"num_read": rows.num_rows}).num_bytes


def measured(name: str, check: Callable[[], object], num_bytes: int, rounds: int) -> float:
    """The median seconds of ``check``, printed."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        check()
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    print(f"{name:12} {median * 1e3:9.3f} ms   {num_bytes:>12,} bytes read")
    return median


def main() -> None:
    """Write a part, check it both ways, print both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llambert-bench-restart-") as folder:
        table = TableDirectory(str(Path(folder) / "corpus"), schema.CORPUS)
        size = write_part(table, arguments.megabytes << 20)
        read: list[int] = []
        cat_file = table.filesystem.cat_file

        def counted(path: str, start: int | None = None, end: int | None = None) -> bytes:
            content = cat_file(path, start=start, end=end)
            read.append(len(content))
            return content

        table.filesystem.cat_file = counted
        table.committed_part(NAME)
        num_footer_bytes = sum(read)
        table.filesystem.cat_file = cat_file
        whole = measured("whole file", lambda: table.check_part(NAME), size, arguments.rounds)
        footer = measured("footer", lambda: table.committed_part(NAME), num_footer_bytes, arguments.rounds)
    print(f"ratio        {whole / footer:9.0f} x   {size / num_footer_bytes:>12,.0f} x")


if __name__ == "__main__":
    main()
