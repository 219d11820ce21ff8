"""Ingest of a UMLS release against a pandas script that makes the same selection, on the same files, in one run.

    python -m tests.benchmarks.bench_umls                    # 5 million rows of MRCONSO, 12.5 million of MRREL
    python -m tests.benchmarks.bench_umls --rows 200000 --floor 0

Writes a release of that size and one of a fifth of it, with faults sown in, ingests both (reading, selection, and
committing the corpus' parts; without Ray's start), and looks whether memory stayed as it was. Exit status 1 where a
text differs from the script's, a sown fault is not among the rejects, memory grew, or the script is less than
``--floor`` times slower.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.fixtures.umls_release import Release, write_release

_MAX_GROWTH = 1.3  # of peak memory, five times the rows against one


def ingest(folder: str, output: str) -> float:
    """Seconds in which the worker of the ingest stage turns a release into parts below ``output``."""
    from llambert.corpora import find_sources
    from llambert.corpus_recipe import Columns, CorpusRecipe, UmlsRecipe
    from llambert.stages.ingest import IngestFile
    from tests.fixtures.ingest_runs import corpus_run

    corpus = CorpusRecipe(path=folder, format="umls", columns=Columns(record_id="record_id"), umls=UmlsRecipe())
    worker = IngestFile(corpus_run(corpus, output))
    started = time.perf_counter()
    for source in find_sources(corpus).units:
        worker(asdict(source))
    return time.perf_counter() - started


def select_with_pandas(folder: str, output: str) -> float:
    """Seconds in which the script makes the texts of a release and writes them as JSON, as the reference does."""
    from tests.fixtures.umls_pandas import concept_texts

    started = time.perf_counter()
    Path(output).write_text(json.dumps(concept_texts(folder)))
    return time.perf_counter() - started


_STEPS = {"ingest": ingest, "pandas": select_with_pandas}


def measure(step: str, release: Release, output: Path) -> tuple[float, float]:
    """Seconds and peak mebibytes of one of ``_STEPS`` in a process of its own; both are printed."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_umls", "--step", step, str(release.folder), str(output)]
    outcome = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    seconds, peak_mib, num_rows = outcome["seconds"], outcome["peak_mib"], sum(release.num_rows.values())
    rates = f"{num_rows / seconds:11,.0f} rows/s  {release.num_bytes / 1e6 / seconds:6.1f} MB/s"
    cost = f"{outcome['cpu_seconds']:6.1f} s of CPU with imports  {peak_mib:6,.0f} MiB at most"
    print(f"{step:7} {num_rows:12,} rows  {seconds:7.1f} s  {rates}  {cost}", flush=True)
    return seconds, peak_mib


def stored(output: Path) -> tuple[dict[str, str], Counter]:
    """The texts of an ingest, those of concepts without a term as "", and its malformed rows by file and reason."""
    import pyarrow.dataset as ds

    corpus, rejects = (ds.dataset(output / name, format="parquet").to_table() for name in ("corpus", "corpus_rejects"))
    texts = dict(zip(corpus["record_id"].to_pylist(), corpus["text"].to_pylist(), strict=True))
    faults: Counter = Counter()
    for reject in rejects.to_pylist():
        if reject["reject_reason"] == "empty_text":
            texts[reject["record_id"]] = ""
        else:
            faults[Path(reject["source"]).stem, reject["reject_reason"]] += 1
    return texts, faults


def compare(num_terms: int, folder: Path) -> tuple[float, list[str]]:
    """How many times faster the ingest is than the script, and what is wrong with it."""
    releases = []
    for name, size in (("small", num_terms // 5), ("whole", num_terms)):
        (folder / name).mkdir()
        started = time.perf_counter()
        releases.append(write_release(folder / name, size))
        print(
            f"written {sum(releases[-1].num_rows.values()):12,} rows  {time.perf_counter() - started:7.1f} s",
            flush=True,
        )
    small, whole = releases
    _, small_mib = measure("ingest", small, folder / "ingested-small")
    seconds, whole_mib = measure("ingest", whole, folder / "ingested")
    pandas_seconds, _ = measure("pandas", whole, folder / "texts.json")
    texts, faults = stored(folder / "ingested")
    expected = json.loads((folder / "texts.json").read_text())
    differing = [concept for concept in texts.keys() | expected.keys() if texts.get(concept) != expected.get(concept)]
    print(
        f"texts   {len(texts):12,} concepts, {len(differing):,} differ; "
        f"{faults.total():,} of {sum(whole.num_faults.values()):,} sown faults among the rejects"
    )
    wrong = []
    if differing or not texts:
        wrong.append(f"{len(differing)} of {len(texts)} texts differ, for example {sorted(differing)[:3]}")
    if faults != whole.num_faults:
        wrong.append(f"faults sown {whole.num_faults}, found {dict(faults)}")
    if whole_mib > _MAX_GROWTH * small_mib:
        wrong.append(f"memory grew from {small_mib:,.0f} to {whole_mib:,.0f} MiB")
    return pandas_seconds / seconds, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="of MRCONSO")
    parser.add_argument("--floor", type=float, default=5.0, help="how many times slower the script has to be")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step, folder, output = arguments.step
        seconds = _STEPS[step](folder, output)
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_seconds = used.ru_utime + used.ru_stime
        print(json.dumps({"seconds": seconds, "peak_mib": used.ru_maxrss / 1024, "cpu_seconds": cpu_seconds}))
        return
    with tempfile.TemporaryDirectory(prefix="bench-umls-") as folder:
        ratio, wrong = compare(arguments.rows, Path(folder))
    for problem in wrong:
        print(f"FAILED: {problem}")
    print(f"ingest is {ratio:.1f} times as fast as pandas read_csv and filters (floor {arguments.floor:g})")
    sys.exit(1 if wrong or ratio < arguments.floor else 0)


if __name__ == "__main__":
    main()
