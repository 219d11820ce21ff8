"""A corpus larger than the memory its process may have: 400 MiB of text, 384 MiB beyond what the imports take."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NUM_ROWS, ROW_CHARS = 400, 1 << 20
PROGRAM = """
import gzip, resource, sys
from dataclasses import asdict
from llambert.corpora import find_sources
from llambert.corpus_recipe import Columns, CorpusRecipe
from llambert.stages.ingest import IngestFile
from tests.fixtures.ingest_runs import corpus_run

folder = sys.argv[1]
corpus = CorpusRecipe(path=f"{folder}/x.jsonl.gz", columns=Columns(record_id="id"), max_text_chars=2_000_000)
worker = IngestFile(corpus_run(corpus, f"{folder}/run"))
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (384 << 20),) * 2)
[source] = find_sources(corpus).units
print(sum(part.num_rows for part in worker(asdict(source)).parts))
try:
    gzip.open(f"{folder}/x.jsonl.gz").read()
except MemoryError:
    print("the limit holds")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")
def test_a_corpus_larger_than_the_memory_limit_is_ingested(tmp_path):
    text = "A long film about nothing in particular. " * (ROW_CHARS // 41)
    with gzip.open(tmp_path / "x.jsonl.gz", "wb", compresslevel=1) as stream:
        for number in range(NUM_ROWS):
            stream.write(json.dumps({"id": number, "text": f"{number} {text}"}).encode() + b"\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.stdout.splitlines() == [str(NUM_ROWS), "the limit holds"], done.stderr
