"""Ingest of an archive in the shape of aclImdb and of the folder it unpacks to: rows/s, MB/s and peak memory.

``python -m tests.benchmarks.bench_ingest`` from the repository. Each source is ingested in a process of its own, in
one worker without Ray, half of the files and all of them: memory has to stay flat. Exit status 1 where it does not,
or where the two layouts differ.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.imdb_archive import write_archive

MAX_GROWTH = 1.15  # of the peak memory, from half of the files to all of them
IMDB_COLUMNS = {"text": "text", "record_id": "record_id", "split": "split", "gold_label": "label", "keep": ("rating",)}


def main() -> None:
    """Write the archives, ingest each, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-files", type=int, default=100_000)
    parser.add_argument(
        "--ingest", metavar="PATH", help="for the processes of their own: ingest this and say how it went"
    )
    arguments = parser.parse_args()
    if arguments.ingest:
        print(json.dumps(ingest(Path(arguments.ingest))))
        return
    peaks: dict[str, list[float]] = {"archive": [], "folder": []}
    digests: dict[int, set[str]] = {}
    print(f"{'source':8} {'files':>8} {'MB':>6} {'rows/s':>8} {'MB/s':>6} {'peak MiB':>9}")
    for num_files in (arguments.num_files // 2, arguments.num_files):
        with tempfile.TemporaryDirectory(prefix="llambert-bench-") as name:
            folder = Path(name)
            num_bytes = write_archive(folder / "aclImdb_v1.tar.gz", num_files)
            (folder / "unpacked").mkdir()
            with tarfile.open(folder / "aclImdb_v1.tar.gz") as archive:
                archive.extractall(folder / "unpacked", filter="data")
            for kind, path in {"archive": folder / "aclImdb_v1.tar.gz", "folder": folder / "unpacked"}.items():
                command = [sys.executable, "-m", "tests.benchmarks.bench_ingest", "--ingest", str(path)]
                done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                peaks[kind].append(done["peak_mib"])
                digests.setdefault(num_files, set()).add(done["digest"])
                rate, speed = done["num_rows"] / done["seconds"], num_bytes / 1e6 / done["seconds"]
                print(
                    f"{kind:8} {done['num_rows']:8,} {num_bytes / 1e6:6.0f} {rate:8,.0f} {speed:6.1f} "
                    f"{done['peak_mib']:9.0f}"
                )
    same = all(len(found) == 1 for found in digests.values())
    flat = all(large <= MAX_GROWTH * small for small, large in peaks.values())
    print(f"same records from both layouts: {same}; memory flat: {flat}")
    sys.exit(not (same and flat))


def ingest(path: Path) -> dict[str, float | str]:
    """Ingest one source here; what was committed, how long it took, and the peak memory of this process."""
    from llambert.corpora import find_sources
    from llambert.corpus_recipe import Columns, CorpusRecipe
    from llambert.stages.ingest import IngestFile
    from tests.fixtures.ingest_runs import corpus_run

    corpus = CorpusRecipe(
        path=str(path),
        format="imdb",
        columns=Columns(**IMDB_COLUMNS),
        gold_labels={"pos": "positive", "neg": "negative"},
    )
    with tempfile.TemporaryDirectory(prefix="llambert-bench-") as name:
        worker = IngestFile(corpus_run(corpus, name))
        started = time.monotonic()
        parts = [part for source in find_sources(corpus).units for part in worker(asdict(source)).parts]
        seconds = time.monotonic() - started
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows: list[bytes] = []
        for part in parts:
            table = worker.corpus.read_part(part.name)
            columns = (table[column].to_pylist() for column in table.column_names)
            rows += [hashlib.blake2b(repr(row).encode(), digest_size=16).digest() for row in zip(*columns, strict=True)]
    digest = hashlib.blake2b(b"".join(sorted(rows)), digest_size=16).hexdigest()
    return {"num_rows": len(rows), "seconds": seconds, "peak_mib": peak_mib, "digest": digest}


if __name__ == "__main__":
    main()
