import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llambert.run import open_run, record_recipe
from tests.fixtures.tiny_classifier import save_tiny_classifier
from tests.fixtures.tiny_encoder import save_tiny_encoder

RECIPE = """\
name: films
task: reviews
storage: {tmp}/run
corpus:
  path: {tmp}/films.csv
annotator: {{model: "package:llambert/tasks", num_records: 1}}
classifier: {{model: "package:llambert/tasks"}}
"""


def llambert(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from llambert.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "films.csv").write_text("text\nA good film.\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(tmp=tmp_path))
    return path


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("annotator.modell=x", "annotator.modell: unknown key; did you mean 'model'?"),
        ("annotator.num_records=many", "annotator.num_records: Input should be a valid integer"),
        ("annotator.model=./no/model", "./no/model: no such file or folder"),
        ("classifier.model=package:nowhere/x", "the Python package 'nowhere' is not installed here"),
        ("corpus.path=./nowhere.csv", "./nowhere.csv: no such file or folder"),
        ("corpus.path=nosuch://bucket/x.csv", "nosuch://bucket/x.csv: cannot be read"),
        ("storage=nosuch://bucket/run", "nosuch://bucket/run: this storage cannot be opened"),
        ("storage=/proc/run", "storage: /proc/run cannot be written"),
        ("task=nothing", "task 'nothing': neither a shipped task"),
        ("annotator.engine=openai", "annotator"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_status_2(recipe, setting, message):
    settings = ["--set", setting]
    if "openai" in setting:
        settings += ["--set", "annotator.mode=choice"]
    done = llambert("run", recipe, *settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not (recipe.parent / "run" / "corpus").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "{recipe}"],
        ["plan", "{recipe}"],
        ["status", "{recipe}"],
        ["verify", "{recipe}"],
        ["repair", "{recipe}"],
        ["report", "{recipe}"],
        ["review", "export", "{recipe}"],
        ["review", "import", "{recipe}", "answers.csv"],
        ["ontology", "{recipe}", "--category", "positive", "--out", "x"],
        ["serve", "{recipe}"],
        ["serve", "{run}"],
    ],
    ids=" ".join,
)
def test_a_run_of_an_earlier_version_is_refused_in_one_line_by_every_command_that_opens_it(recipe, arguments):
    run = recipe.parent / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe.read_text())
    before = sorted(run.rglob("*"))
    done = llambert(*(argument.format(recipe=recipe, run=run) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"storage: the run in {run} was made by an earlier llambert (layout 1)" in done.stderr
    assert "cannot read; choose another storage" in done.stderr
    assert sorted(run.rglob("*")) == before


def test_a_run_of_another_layout_is_refused_and_one_of_this_layout_or_none_is_opened(recipe):
    run = recipe.parent / "run"
    assert llambert("status", recipe).returncode == 0  # nothing is there
    assert not run.exists()
    run.mkdir()
    assert llambert("status", recipe).returncode == 0  # an empty folder
    record_recipe(open_run(str(recipe)))
    assert llambert("status", recipe).returncode == 0
    (run / "layout.json").write_text('{"layout": 99, "made_by": "llambert 9.9.0"}')
    done = llambert("status", recipe)
    assert done.returncode == 2
    assert f"storage: the run in {run} was made by llambert 9.9.0 (layout 99), which llambert" in done.stderr


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"{}", b'{"layout": "?"}'])
def test_a_damaged_layout_file_is_one_line_that_names_it(recipe, content):
    run = recipe.parent / "run"
    run.mkdir()
    (run / "layout.json").write_bytes(content)
    done = llambert("status", recipe)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"storage: {run}/layout.json is damaged: it does not say which layout the run has; restore" in done.stderr


@pytest.mark.slow
def test_a_missing_column_is_found_while_reading_and_nothing_counts_as_complete(recipe):
    encoder = save_tiny_encoder(recipe.parent / "encoder")
    done = llambert("run", recipe, "--set", "corpus.columns.text=body", "--set", f"classifier.model={encoder}")
    assert done.returncode == 2
    assert "films.csv: no column 'body'; it has 'text'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(recipe.parent.glob("run/**/manifest.json"))


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_encoder_that_cannot_be_trained_is_refused_before_ray_starts(recipe, command, tmp_path):
    encoder = tmp_path / "encoder"
    save_tiny_encoder(encoder)
    (encoder / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes()[:-500])
    done = llambert(command, recipe, "--set", f"classifier.model={encoder}", RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"llambert: classifier.model: {encoder}: its model.safetensors cannot be read: "
    )
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").glob("*/*"))


def without_ray(command, checkpoint, folder):
    """``label`` or ``serve`` with a checkpoint, where no Ray can be reached."""
    (folder / "in.csv").write_text("text\ngood film\n")
    options = ["--checkpoint", checkpoint, "--input", folder / "in.csv", "--output", folder / "out"]
    return llambert(command, *(options if command == "label" else [checkpoint]), RAY_ADDRESS="127.0.0.1:9")


@pytest.mark.parametrize("command", ["label", "serve"])
def test_a_regression_head_is_refused_before_ray_starts(command, tmp_path):
    checkpoint = save_tiny_classifier(tmp_path / "score", ("score",))
    done = without_ray(command, checkpoint, tmp_path)
    assert done.returncode == 2
    assert "its head has one output" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["label", "serve"])
def test_a_checkpoint_that_only_its_weights_give_away_is_refused_before_ray_starts(command, tmp_path):
    checkpoint = Path(save_tiny_classifier(tmp_path / "classifier", ("negative", "positive")))
    config = json.loads((checkpoint / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b", "2": "c"}
    (checkpoint / "config.json").write_text(json.dumps({**config, "label2id": {"a": 0, "b": 1, "c": 2}}))
    done = without_ray(command, checkpoint, tmp_path)
    assert done.returncode == 2
    assert "have the shape (2,), and its config.json" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_missing_recipe_is_named():
    done = llambert("run", "nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr == "llambert: nowhere.yaml: cannot be read: No such file or directory\n"


def test_help_and_version_come_without_ray_or_torch():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, llambert.cli; print({'ray', 'torch', 'transformers'} & set(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
    assert llambert("--version").stdout.strip()


def test_an_argument_that_is_not_utf_8_is_one_line(tmp_path):
    ended = llambert("label", "--checkpoint", tmp_path, "--input", "caf\udce9.csv", "--output", tmp_path / "out")
    assert ended.returncode == 2
    assert (
        ended.stderr
        == "llambert: caf\\xE9.csv: the name is not UTF-8; rename the file, or name the folder that it is in\n"
    )
