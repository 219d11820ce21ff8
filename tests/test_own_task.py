"""Tasks beyond the paper's: the shipped one of four categories, and one that a newcomer makes of two columns."""

import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llambert.integrity.verify import verify
from llambert.run import open_run
from tests.fixtures.tiny_encoder import save_tiny_encoder
from tests.fixtures.tiny_llm import save_tiny_llm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "annotator.num_records": "60",
    "annotator.records_per_part": "30",
    "annotator.cpus_per_replica": "1",
    "classifier.cpus_per_worker": "1",
    "classifier.epochs": "1",
    "label.cpus_per_actor": "1",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """What makes a recipe for real models one for tiny ones."""
    folder = tmp_path_factory.mktemp("models")
    models = {
        "annotator.model": str(save_tiny_llm(folder / "llm")),
        "classifier.model": save_tiny_encoder(folder / "encoder"),
    }
    return [f"{key}={value}" for key, value in {**SMALL, **models}.items()]


def llambert(folder, *arguments, settings=()):
    sets = [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-c", "from llambert.cli import main; main()", *map(str, arguments), *sets],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_four_categories_on_real_words_from_the_source_file_to_labels_and_report(tmp_path, settings):
    recipe = ROOT / "jobs" / "recipes" / "thesaurus.yaml"
    settings = [*settings, f"storage={tmp_path}/run"]
    summary = llambert(ROOT, "run", recipe, "--in-process", settings=settings)
    run = open_run(str(recipe), settings)
    assert verify(run) == []
    kinds = {"animal", "plant", "food", "clothing"}
    labels = run.table("labels").read()
    assert labels.num_rows == run.table("corpus").require_manifest().num_kept == 7021
    assert set(labels["label"].to_pylist()) <= kinds
    assert set(run.table("corpus").read(["gold_label"])["gold_label"].to_pylist()) == kinds
    beliefs = run.table("silver").read(["label_probabilities"])["label_probabilities"].to_pylist()
    assert all({pair["category"] for pair in row} == kinds for row in beliefs)
    assert "7,021 records labelled" in summary


def test_a_newcomer_comes_from_two_columns_to_labelled_parquet_by_init_try_and_run(tmp_path, settings):
    words = random.Random(1)
    rows = [f'{number},"the {words.choice(["good", "bad"])} film, {number}"' for number in range(120)]
    (tmp_path / "films.csv").write_text("\n".join(["id,review", *rows]) + "\n")
    categories = ["--category", "liked=good", "--category", "disliked=bad"]
    llambert(
        *(tmp_path, "init", "films", "--corpus", "films.csv", "--question", "Did they like it?", "--record-id", "id"),
        *categories,
    )
    assert "3 of 3  " in llambert(tmp_path, "try", "films.yaml", "--n", 3, settings=settings)
    llambert(tmp_path, "run", "films.yaml", settings=settings)
    [labels] = (tmp_path / "runs" / "films" / "labels").glob("*/part-*.parquet")
    table = pq.read_table(labels)
    assert table.column_names == ["record_id", "label", "score", "text"]
    assert sorted(map(int, table["record_id"].to_pylist())) == list(range(120))
    assert set(table["label"].to_pylist()) <= {"liked", "disliked"}
    assert table["text"][0].as_py().endswith(", 0")
