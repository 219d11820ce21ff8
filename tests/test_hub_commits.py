"""A name on the hub has one fingerprint before its download, after it, and after the hub's ``main`` has moved."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.hub_server import running_hub
from tests.fixtures.tiny_classifier import save_tiny_classifier
from tests.fixtures.tiny_encoder import save_tiny_encoder
from tests.fixtures.tiny_llm import save_tiny_llm

RECIPE = """\
name: films
task: reviews
storage: {folder}/run
corpus: {{path: {folder}/films.csv}}
annotator: {{model: org/llm, dtype: float32, num_records: 1}}
classifier: {{model: org/encoder}}
"""
OPEN = "from llambert.run import open_run, record_recipe\nrun = open_run(sys.argv[1], sys.argv[2:])\n"
SHOW = "print(json.dumps([run.fingerprints, run.recipe.classifier.revision, run.recipe.annotator.revision]))\n"
LOAD = """\
from llambert.training.encoder import load_encoder
from llambert.engines.transformers import load_model
load_encoder(run.recipe.classifier, run.task.category_names)
load_model(run.recipe.annotator)
"""
CLASSIFY = """\
from llambert.classifier.inference import Classifier, validate_checkpoint
from llambert.storage.reference import content_identity, pin_commit
checkpoint = sys.argv[1] if "@" in sys.argv[1] else pin_commit(sys.argv[1])
validate_checkpoint(checkpoint)
scores = Classifier(checkpoint, device="cpu").predict(["a good film"]).scores.tolist()
print(json.dumps([checkpoint, content_identity(checkpoint), scores]))
"""


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture
def recipe(tmp_path, hub):
    """A recipe whose models are on the hub, each with one commit."""
    save_tiny_encoder(tmp_path / "encoder")
    save_tiny_llm(tmp_path / "llm")
    for name in ("encoder", "llm"):
        hub.repository(f"models/org/{name}").commit(tmp_path / name)
    (tmp_path / "films.csv").write_text("text\nA good film.\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path / "recipe.yaml"


def python(code, *arguments, hub=None, cache):
    """What a new process prints last, as JSON; with ``hub`` it can reach it, without it is offline."""
    place = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"} if hub else {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{code}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **place, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def move_main(hub, folder, seed=1):
    save_tiny_encoder(folder / "encoder2", seed=seed)
    return hub.repository("models/org/encoder").commit(folder / "encoder2")


@pytest.mark.slow
def test_one_fingerprint_before_and_after_the_download_and_after_main_has_moved(tmp_path, recipe, hub):
    cache = tmp_path / "cache"
    commits = [hub.repository(f"models/org/{name}").refs["main"] for name in ("encoder", "llm")]
    before = python(OPEN + SHOW, recipe, hub=hub, cache=cache)
    assert before[1:] == commits
    assert not (tmp_path / "run").exists()  # it was opened, and nothing was written
    assert python(OPEN + "run = record_recipe(run)\n" + LOAD + SHOW, recipe, hub=hub, cache=cache) == before
    assert hub.revisions_read == set(commits)  # no file was read at "main"
    assert python(OPEN + SHOW, recipe, hub=hub, cache=cache) == before
    moved = move_main(hub, tmp_path)
    hub.requests.clear()
    assert python(OPEN + LOAD + SHOW, recipe, hub=hub, cache=tmp_path / "empty") == before
    assert hub.revisions_read == set(commits)
    assert python(OPEN + LOAD + SHOW, recipe, cache=cache) == before  # offline, from the cache
    other = python(OPEN + SHOW, recipe, f"storage={tmp_path}/other", hub=hub, cache=cache)
    assert other[1] == moved
    changed = {name for name in before[0] if before[0][name] != other[0][name]}
    of_guarantees = {"certification", "certification_responses", "certificate", "deferred", "escalated", "decisions"}
    assert changed == {"checkpoint", "labels", "plan", "report", *of_guarantees}


def test_a_tag_and_the_commit_that_it_is_at_have_one_fingerprint(tmp_path, recipe, hub):
    repository = hub.repository("models/org/encoder")
    tagged = repository.commit(tmp_path / "encoder", "v1")
    by_tag, by_commit, by_main = (
        python(OPEN + SHOW, recipe, f"classifier.revision={revision}", hub=hub, cache=tmp_path / "cache")
        for revision in ("v1", tagged, "null")
    )
    assert by_tag == by_commit
    assert by_tag[1] == tagged != by_main[1]


def test_of_two_drivers_that_saw_another_main_the_first_to_write_decides(tmp_path, recipe, hub):
    cache, code = tmp_path / "cache", OPEN + "input()\nrun = record_recipe(run)\n" + SHOW
    first = hub.repository("models/org/encoder").refs["main"]
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache)}
    waiting = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import json, sys\n{code}".replace("input()", "print('open', flush=True)\ninput()"),
            recipe,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert waiting.stdout.readline() == "open\n"
    moved = move_main(hub, tmp_path)
    second = python(code.replace("input()", ""), recipe, hub=hub, cache=cache)
    assert second[1] == moved != first
    assert json.loads(waiting.communicate("\n")[0].splitlines()[-1]) == second


@pytest.mark.slow
def test_a_checkpoint_of_the_hub_is_labelled_with_at_one_commit(tmp_path, hub):
    cache, repository = tmp_path / "cache", hub.repository("models/org/classifier")
    first = repository.commit(save_tiny_classifier(tmp_path / "one"))
    checkpoint, identity, scores = python(CLASSIFY, "org/classifier", hub=hub, cache=cache)
    assert checkpoint == f"org/classifier@{first}"
    repository.commit(save_tiny_classifier(tmp_path / "two", seed=1))
    assert python(CLASSIFY, checkpoint, hub=hub, cache=tmp_path / "empty") == [checkpoint, identity, scores]
    assert python(CLASSIFY, checkpoint, cache=cache) == [checkpoint, identity, scores]
    assert python(CLASSIFY, "org/classifier", hub=hub, cache=cache)[2] != scores


def test_offline_the_cache_says_what_main_was_at_and_without_it_one_line_says_what_to_do(tmp_path, recipe, hub):
    cache = tmp_path / "cache"
    online = python(OPEN + LOAD + SHOW, recipe, hub=hub, cache=cache)
    move_main(hub, tmp_path)
    assert python(OPEN + LOAD + SHOW, recipe, cache=cache) == online
    done = subprocess.run(
        [sys.executable, "-c", "from llambert.cli import main; main()", "status", recipe],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "empty")},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "org/llm: which commit its revision main is at cannot be found out" in done.stderr
    assert "set the revision to a full commit, start once with access to the hub, or name a local folder" in done.stderr


def test_a_name_that_the_hub_does_not_have_is_one_line(tmp_path, recipe, hub):
    code = "from llambert.errors import InputError\nfrom llambert.storage.reference import find_commit\ntry:\n"
    code += "    find_commit(*sys.argv[1:])\nexcept InputError as error:\n    print(json.dumps(str(error)))\n"
    for arguments in (["org/nothing"], ["org/encoder", "v9"]):
        line = python(code, *arguments, hub=hub, cache=tmp_path / "cache")
        assert line.startswith(f"{arguments[0]}: which commit")
        assert "404" in line


def test_a_data_set_of_the_hub_is_read_at_the_commit_that_the_run_has_stored(tmp_path, recipe, hub):
    for number, text in enumerate(("First", "Second")):
        folder = tmp_path / f"data{number}" / "data"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"text": [f"{text} film."]}), folder / "train-0.parquet")
    first = hub.repository("datasets/org/films").commit(tmp_path / "data0")
    read = (
        "from llambert.corpora import find_sources, read_rows\ncorpus = run.recipe.corpus\n"
        "found = [rows for source in find_sources(corpus).units for rows in read_rows(source, corpus, ['text'])]\n"
        "rows = [rows.records.to_pylist() for rows in found]\n"
        "print(json.dumps([run.fingerprints, corpus.huggingface.revision, rows]))\n"
    )
    settings = ["corpus.path=org/films", "corpus.format=huggingface"]
    before = python(OPEN + SHOW, recipe, *settings, hub=hub, cache=tmp_path / "cache")[0]
    code = OPEN + "run = record_recipe(run)\n" + read
    assert python(code, recipe, *settings, hub=hub, cache=tmp_path / "cache") == [
        before,
        first,
        [[{"text": "First film."}]],
    ]
    moved = hub.repository("datasets/org/films").commit(tmp_path / "data1")
    hub.requests.clear()
    again = python(OPEN + read, recipe, *settings, hub=hub, cache=tmp_path / "empty")
    assert again == [before, first, [[{"text": "First film."}]]]
    assert hub.revisions_read == {first}
    other = python(OPEN + read, recipe, *settings, f"storage={tmp_path}/other", hub=hub, cache=tmp_path / "cache")
    assert other[1:] == [moved, [[{"text": "Second film."}]]]
    assert other[0]["sample"] != before["sample"]
