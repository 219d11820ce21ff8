"""The whole method as a user starts it: a program of its own, on a local Ray, with tiny real models."""

import functools
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llambert.integrity.verify import verify
from llambert.run import Run, open_run
from tests.fixtures.encoder_families import save_family
from tests.fixtures.hub_server import running_hub
from tests.fixtures.processes import kill_group, wait_for_commit
from tests.fixtures.stored_responses import joined
from tests.fixtures.tiny_classifier import save_tiny_classifier
from tests.fixtures.tiny_llm import save_tiny_llm

pytestmark = pytest.mark.slow

SEED = 20251122
NUM_ROWS = 240
TABLES = ["corpus", "sample", "responses", "silver", "labels"]
RECIPE = """\
name: films
task: reviews
corpus:
  path: films.csv
  columns: {record_id: id, text: text, gold_label: stars}
  gold_labels: {fresh: positive, rotten: negative}
  rows_per_part: 40
annotator:
  model: ./llm
  dtype: float32
  prompt: completion
  mode: score
  num_records: 100
  records_per_part: 20
parse: {prior_correction: batch}
classifier: {model: ./encoder, epochs: 2, max_length: 32, learning_rate: 1.0e-3}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llm(folder / "llm")
    save_tiny_classifier(folder / "encoder")
    return folder


def make_workplace(folder: Path, models: Path, with_gold: bool = True) -> Path:
    """A folder as a user has it: a recipe, a corpus, models; one text twice, one row without text."""
    folder.mkdir(parents=True)
    for name in ["llm", "encoder"]:
        (folder / name).symlink_to(models / name)
    words = random.Random(SEED)
    lines = ["id,text,stars" if with_gold else "id,text"]
    for row in range(NUM_ROWS):
        kind = words.choice(["fresh", "rotten"])
        adjectives = ["good", "great", "moving"] if kind == "fresh" else ["bad", "dull", "never"]
        text = f"the film is {words.choice(adjectives)} and the plot {words.choice(adjectives)} {row}"
        text = {7: "", 9: "the same", 11: "the same"}.get(row, text)
        lines.append(f"r{row},{text},{kind}" if with_gold else f"r{row},{text}")
    (folder / "films.csv").write_text("\n".join(lines) + "\n")
    recipe = (
        RECIPE
        if with_gold
        else RECIPE.replace(", gold_label: stars", "").replace(
            "  gold_labels: {fresh: positive, rotten: negative}\n", ""
        )
    )
    (folder / "recipe.yaml").write_text(recipe)
    return folder


def start(folder: Path, *options: str) -> subprocess.Popen:
    log = (folder / "log").open("a")
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, root / "jobs" / "pipeline.py", "recipe.yaml", *options],
        cwd=folder, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip


def finish(folder: Path, *options: str) -> None:
    assert start(folder, *options).wait(timeout=400) == 0, (folder / "log").read_text()[-4000:]


def num_files(table: Path) -> int:
    pattern = "*/part-*" if table.name == "answers" else "*/*"  # beside these it says who is asked
    return len(list(table.glob(pattern)))


def open_in(folder: Path, monkeypatch) -> Run:
    monkeypatch.chdir(folder)
    return open_run("recipe.yaml")


def rows(run: Run, table: str, without: tuple[str, ...] = ()) -> list[dict]:
    if table == "responses":  # with their answers, whichever part of the store these are in
        read, without = joined(run), (*without, "busy_seconds")
    else:
        read = run.table(table).read()
    return read.drop_columns([name for name in without if name in read.column_names]).to_pylist()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, models):
    folder = make_workplace(tmp_path_factory.mktemp("undisturbed") / "films", models)
    finish(folder)
    return folder


def test_a_corpus_goes_in_and_every_record_comes_out_labelled(undisturbed, monkeypatch):
    run = open_in(undisturbed, monkeypatch)
    counts = {name: run.table(name).require_manifest() for name in [*TABLES, "rejects", "report"]}
    assert (counts["corpus"].num_in, counts["corpus"].num_kept) == (NUM_ROWS, NUM_ROWS - 1)
    assert counts["corpus"].num_rejected == {"null_text": 1}
    assert counts["corpus"].counts["num_duplicates"] == 1
    assert counts["responses"].num_in == 100
    assert counts["silver"].num_kept + sum(counts["silver"].num_rejected.values()) == 100
    assert counts["labels"].num_kept == NUM_ROWS - 1
    assert {row["record_id"] for row in rows(run, "labels")} == {row["record_id"] for row in rows(run, "corpus")}
    assert not {row["record_id"] for row in rows(run, "duplicates")} & {r["record_id"] for r in rows(run, "sample")}
    assert verify(run) == []
    for name in ["report.md", "report.html"]:
        assert "positive" in (undisturbed / "runs/films/report" / run.fingerprints["report"] / name).read_text()


@pytest.mark.parametrize("family", ["deberta-v3", "gpt2"])
def test_an_encoder_without_fused_attention_and_one_without_a_padding_token_label_what_they_were_trained_for(
    family, models, tmp_path, monkeypatch
):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/llm").symlink_to(models / "llm")
    save_family(tmp_path / "models/encoder", family)
    folder = make_workplace(tmp_path / "films", tmp_path / "models")
    finish(folder, "--in-process")
    run = open_in(folder, monkeypatch)
    assert run.table("labels").require_manifest().num_kept == NUM_ROWS - 1
    model = AutoModelForSequenceClassification.from_pretrained(run.table("checkpoint").path()).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.table("checkpoint").path())
    texts = {row["record_id"]: row["text"] for row in rows(run, "corpus")}
    for row in rows(run, "labels")[:40]:
        given = tokenizer(texts[row["record_id"]], truncation=True, return_tensors="pt")
        probabilities = model(**given).logits.softmax(-1)[0]
        assert row["label"] == model.config.id2label[int(probabilities.argmax())]
        assert row["score"] == pytest.approx(float(probabilities.max()), abs=1e-5)


def test_a_second_start_computes_nothing_again(undisturbed):
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "runs").rglob("*") if path.is_file()}
    started = time.monotonic()
    finish(undisturbed)
    print(f"a complete run came back in {time.monotonic() - started:.1f} s")
    after = {path: path.stat().st_mtime_ns for path in (undisturbed / "runs").rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed == {"recipe.yaml"}


def test_no_gold_label_leaks_into_annotate_parse_finetune_or_label(undisturbed, models, tmp_path, monkeypatch):
    with_gold = open_in(undisturbed, monkeypatch)
    expected = {name: rows(with_gold, name, ("gold_label",)) for name in TABLES}
    folder = make_workplace(tmp_path / "films", models, with_gold=False)
    finish(folder, "--in-process")
    without = open_in(folder, monkeypatch)
    for name in TABLES:
        assert rows(without, name, ("gold_label",)) == expected[name], name


def test_killed_in_every_stage_and_started_again_it_ends_with_the_same_tables(
    undisturbed, models, tmp_path, monkeypatch
):
    expected_run = open_in(undisturbed, monkeypatch)
    expected = {name: rows(expected_run, name) for name in TABLES}
    folder = make_workplace(tmp_path / "films", models)
    for table in ["corpus", "answers", "training", "labels"]:
        process = start(folder)
        wait_for_commit(process, functools.partial(num_files, folder / "runs/films" / table), every_s=0.005)
        kill_group(process.pid)
        process.wait()
        done = len(list((folder / "runs/films" / table).glob("*/*.parquet")))
        print(f"killed in {table}, {done} parts committed")
    finish(folder)
    run = open_in(folder, monkeypatch)
    for name in TABLES:
        assert rows(run, name) == expected[name], name
    assert verify(run) == []


def test_some_splits_are_annotated_and_gold_trained_on_in_another_copy_judges_nothing(models, tmp_path, monkeypatch):
    folder = make_workplace(tmp_path / "films", models)
    lines = (folder / "films.csv").read_text().splitlines()
    lines = [f"{line},{'split' if n == 0 else ('test', 'train', 'extra')[n % 3]}" for n, line in enumerate(lines)]
    # r0 (line 1) is of split train: a later test record gets its text; r2 (line 3) of test: a later train record does.
    copies = {9: 1, 10: 3}
    for copy, first in copies.items():
        record_id, _, stars, split = lines[copy].split(",")
        lines[copy] = ",".join([record_id, lines[first].split(",")[1], stars, split])
    (folder / "films.csv").write_text("\n".join(lines) + "\n")
    recipe = RECIPE.replace("gold_label: stars}", "gold_label: stars, split: split}")
    recipe = recipe.replace("num_records: 100", "num_records: 50\n  splits: [extra]")
    (folder / "recipe.yaml").write_text(recipe.replace("classifier: {", "classifier: {regime: combined, "))
    finish(folder, "--in-process")
    run = open_in(folder, monkeypatch)
    assert verify(run) == []
    split_of = {row["record_id"]: row["split"] for row in rows(run, "corpus")}
    assert {split_of[row["record_id"]] for row in rows(run, "sample")} == {"extra"}
    assert run.table("sample").require_manifest().counts["split.extra"] == 50
    counts = run.table("checkpoint").require_manifest().counts
    assert counts["num_silver_train"] + counts["num_silver_held_out"] == run.table("silver").require_manifest().num_kept
    # Unseen: of split test, all but the two whose texts train has too; of extra, those that were not annotated.
    seen = {row["record_id"] for row in rows(run, "sample")} | {row["record_id"] for row in rows(run, "duplicates")}
    unseen = {record_id for record_id, split in split_of.items() if split != "train"} - seen - {"r2", "r8"}
    report = run.table("report").require_manifest()
    assert report.counts["num_unseen_gold"] == len(unseen)
    text = Path(run.table("report").path("report.md")).read_text()
    assert "50 records of split extra, drawn uniformly at random" in text


def test_a_run_whose_files_and_storage_have_odd_names_is_like_any_other(undisturbed, models, tmp_path, monkeypatch):
    undisturbed_run = open_in(undisturbed, monkeypatch)
    expected = {name: rows(undisturbed_run, name, ("model",)) for name in TABLES}
    folder = make_workplace(tmp_path / "x [1] 100%25 #é" / "films", models)
    (folder / "films.csv").rename(folder / "films [final]*.csv")
    (folder / "models [7b]").mkdir()
    for name in ["llm", "encoder"]:
        (folder / name).rename(folder / "models [7b]" / name)
    recipe = (folder / "recipe.yaml").read_text()
    recipe = recipe.replace("films.csv", '"films [final]*.csv"').replace("model: ./", "model: ./models [7b]/")
    recipe = recipe.replace("model: ./models [7b]/encoder,", "model: './models [7b]/encoder',")
    (folder / "recipe.yaml").write_text(recipe + "label: {by_label: true}\nstorage: 'runs [a-z]*?/{films}'\n")
    finish(folder)
    run = open_in(folder, monkeypatch)
    for name in TABLES:
        assert rows(run, name, ("model",)) == expected[name], name
    assert verify(run) == []
    assert run.table("training").part_names() == []


IN_PROCESS = """
import sys
from llambert.cli import main

sys.argv = ["llambert", "run", "recipe.yaml", "--in-process"]
try:
    main()
finally:
    import psutil, ray
    print("Ray runs:", ray.is_initialized(), "processes:", len(psutil.Process().children(recursive=True)))
"""


def test_in_one_process_without_ray_the_tables_are_the_same_and_the_report_is_there(
    undisturbed, models, tmp_path, monkeypatch
):
    undisturbed_run = open_in(undisturbed, monkeypatch)
    expected = {name: rows(undisturbed_run, name) for name in TABLES}
    folder = make_workplace(tmp_path / "films", models)
    done = subprocess.run([sys.executable, "-c", IN_PROCESS], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Ray runs: False processes: 0" in done.stdout
    run = open_in(folder, monkeypatch)
    for name in TABLES:
        assert rows(run, name) == expected[name], name
    assert run.table("report").read_manifest() is not None
    assert verify(run) == []


def test_a_killed_run_in_one_process_goes_on_through_ray(undisturbed, models, tmp_path, monkeypatch):
    undisturbed_run = open_in(undisturbed, monkeypatch)
    expected = {name: rows(undisturbed_run, name) for name in TABLES}
    folder = make_workplace(tmp_path / "films", models)
    process = start(folder, "--in-process")
    wait_for_commit(process, functools.partial(num_files, folder / "runs/films/answers"), every_s=0.005)
    kill_group(process.pid)
    process.wait()
    assert not list((folder / "runs/films/labels").glob("*/*"))
    finish(folder)
    run = open_in(folder, monkeypatch)
    for name in TABLES:
        assert rows(run, name) == expected[name], name
    assert verify(run) == []


ON_TWO_NODES = """
import sys
import ray
from ray.cluster_utils import Cluster
from llambert.pipeline import pipeline
from llambert.run import open_run, record_recipe

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
cluster.add_node(num_cpus=2)
without_hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": sys.argv[1]}
ray.init(address=cluster.address, runtime_env={"env_vars": without_hub}, log_to_driver=False)
pipeline(record_recipe(open_run("recipe.yaml", sys.argv[2:])))
ray.shutdown()
cluster.shutdown()
"""
TWO_OF_EACH = (
    *("annotator.model=org/llm", "annotator.min_replicas=2", "annotator.max_replicas=2"),
    *("classifier.model=org/encoder", "classifier.num_workers=2", "classifier.epochs=1"),
    *("label.min_actors=2", "label.max_actors=2"),
)


def test_two_of_each_worker_on_two_nodes_work_with_models_that_were_fetched_once_through_a_busy_hub(models, tmp_path):
    folder = make_workplace(tmp_path / "films", models)
    with running_hub() as hub:
        for name in ("llm", "encoder"):
            hub.repository(f"models/org/{name}").commit(models / name)
        hub.refusals = [(429, {"Retry-After": "1"})]
        place = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hub"),
            "LLAMBERT_CACHE": str(tmp_path / "cache"),
        }
        command = [sys.executable, "-c", ON_TWO_NODES, str(tmp_path / "no-hub"), *TWO_OF_EACH]
        environment = {**os.environ, **place, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("tried again for up to") == 1
    sent = [path for path in hub.requests if "/resolve/" in path]
    assert sum(hub.downloads.values()) == len({path.rpartition("/")[2] + path.split("/")[2] for path in sent})
    assert not (tmp_path / "no-hub/hub").exists()
    assert len(list((folder / "runs/films/models").glob("*/model.safetensors"))) == 2
