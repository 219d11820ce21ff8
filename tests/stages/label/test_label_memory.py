"""Memory of the label stage where a text, or a part, is far larger than any should be."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest

from llambert import schema
from llambert.storage.part_file import PartWriter
from llambert.storage.run_directory import TableDirectory
from tests.fixtures.tiny_classifier import save_tiny_classifier

# Labels a corpus of one part; says the peak memory (MiB) before it, after a quarter of it and at the end.
PROGRAM = """
import json, resource, sys
from pathlib import Path
from llambert.classifier.labelling import PartLabeller, read_windows
from llambert.recipe import LabelRecipe
from llambert.storage.run_directory import TableDirectory

folder, num_rows = sys.argv[1], int(sys.argv[2])
tables = [TableDirectory(f"{folder}/{name}") for name in ("labels", "rejects")]
labeller = PartLabeller(LabelRecipe(), f"{folder}/encoder", *tables)
labeller.classifier.predict(["good film"] * 3000)

def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1024

def watched():
    done = 0
    for window in read_windows(TableDirectory(f"{folder}/corpus"), "part-0.parquet", ["record_id", "text"]):
        yield window
        done += window.num_rows
        if done >= num_rows / 4 and len(peaks) == 1:
            peaks.append(peak())

peaks = [peak()]
part, _ = labeller.commit("part-0.parquet", watched())
print(json.dumps({"num_rows": part.num_rows, "peaks": [*peaks, peak()]}))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def labelled(folder, num_rows: int) -> dict:
    save_tiny_classifier(folder / "encoder")
    command = [sys.executable, "-c", PROGRAM, str(folder), str(num_rows)]
    # One arena: memory that glibc keeps free in one arena of several, as its threads happen to run, is not the stage's.
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_corpus(folder, tables) -> None:
    rows = PartWriter()
    for table in tables:
        rows.add(table)
    TableDirectory(f"{folder}/corpus").commit_rows("part-0.parquet", rows)


@pytest.mark.slow
def test_a_part_of_a_million_empty_strings_takes_no_more_memory_than_a_quarter_of_it(tmp_path):
    num_rows = 1_000_000
    write_corpus(
        tmp_path,
        (
            pa.table(
                {
                    schema.RECORD_ID: [f"record-{n:012d}" for n in range(start, start + 50_000)],
                    schema.TEXT: [""] * 50_000,
                }
            )
            for start in range(0, num_rows, 50_000)
        ),
    )
    done = labelled(tmp_path, num_rows)
    assert done["num_rows"] == num_rows
    _, quarter, end = done["peaks"]
    assert end - quarter < 24, done["peaks"]


@pytest.mark.slow
def test_a_text_of_128_mebibytes_takes_a_few_times_its_size(tmp_path):
    size = 128 << 20
    texts = ["a good film", "dull plot " * (size // 10), "a bad film"]
    write_corpus(tmp_path, [pa.table({schema.RECORD_ID: ["a", "b", "c"], schema.TEXT: texts})])
    done = labelled(tmp_path, 3)
    assert done["num_rows"] == 3
    assert done["peaks"][-1] - done["peaks"][0] < 4 * 128, done["peaks"]
