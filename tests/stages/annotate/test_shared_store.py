"""Two runs that share a store and are at work at once, and runs that are killed: each question is asked once."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llambert import schema
from llambert.integrity.verify import verify
from llambert.run import Run, open_run
from tests.fixtures.openai_endpoint import Endpoint, chat
from tests.fixtures.stored_responses import joined
from tests.fixtures.tiny_encoder import save_tiny_encoder

pytest.importorskip("openai", reason="needs the openai extra")
NUM_RECORDS, RECORDS_PER_PART, CONCURRENCY = 160, 8, 4
PROGRAM = """
import sys
from llambert.execution.in_process import IN_PROCESS
from llambert.run import open_run, record_recipe
from llambert.stages.annotate import annotate
from llambert.stages.ingest import ingest
from llambert.stages.parse import parse
from llambert.stages.sample import sample
run = record_recipe(open_run(sys.argv[1], sys.argv[2:]))
ingest(run, IN_PROCESS); sample(run); annotate(run, IN_PROCESS); parse(run)
"""


def answered_by_its_text(request: dict) -> dict:
    time.sleep(0.01)
    text = request["messages"][-1]["content"]
    return chat("Positive" if "even" in text else "Negative")


@pytest.fixture
def recipe(tmp_path, endpoint) -> Path:
    endpoint.otherwise = answered_by_its_text
    rows = [f"film {n} is {'even' if n % 2 == 0 else 'odd'}" for n in range(2 * NUM_RECORDS)]
    (tmp_path / "films.csv").write_text("text\n" + "\n".join(rows) + "\n")
    annotator = {
        "engine": "openai", "model": "m", "base_url": endpoint.base_url, "prompt": "instruct",
        "num_records": NUM_RECORDS, "records_per_part": RECORDS_PER_PART, "answer_store": str(tmp_path / "store"),
        "limits": {"concurrency": CONCURRENCY},
    }  # fmt: skip
    values = {
        "name": "films", "task": "reviews", "corpus": {"path": str(tmp_path / "films.csv")}, "annotator": annotator,
        "classifier": {"model": save_tiny_encoder(tmp_path / "encoder")}, "storage": str(tmp_path / "run"),
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    return tmp_path / "recipe.yaml"


def start(recipe: Path, *settings: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(recipe), *settings], stdout=subprocess.DEVNULL)


def texts_asked(endpoint: Endpoint) -> list[str]:
    return [request["messages"][-1]["content"] for request in endpoint.requests]


def responses(run: Run) -> list[dict]:
    return joined(run).drop_columns([schema.BUSY_SECONDS]).to_pylist()


def findings(run: Run) -> list[str]:
    tables = ("answers", "responses", "silver", "rejects", "sample", "corpus")
    return [str(finding) for finding in verify(run) if finding.table in tables]


@pytest.mark.slow
def test_two_runs_at_once_ask_each_question_once_but_for_those_in_flight(recipe, endpoint, tmp_path):
    drivers = [start(recipe, f"storage={tmp_path / name}") for name in ("one", "two")]
    assert [driver.wait(120) for driver in drivers] == [0, 0]
    runs = [open_run(str(recipe), [f"storage={tmp_path / name}"]) for name in ("one", "two")]
    asked = texts_asked(endpoint)
    # What both have in flight at the same time is a unit each; they meet at few of the twenty.
    assert NUM_RECORDS <= len(asked) <= NUM_RECORDS + 6 * RECORDS_PER_PART
    assert len(set(asked)) == NUM_RECORDS
    assert responses(runs[0]) == responses(runs[1])
    assert [findings(run) for run in runs] == [[], []]
    endpoint.requests.clear()
    assert start(recipe, f"storage={tmp_path / 'three'}").wait(60) == 0
    assert endpoint.requests == []


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_asks_again_what_was_in_flight_alone(recipe, endpoint, tmp_path):
    seed, num_kills = 0, 0
    chance = random.Random(seed)
    print("seed", seed)
    while True:
        driver, num_before = start(recipe), len(endpoint.requests)
        while driver.poll() is None and len(endpoint.requests) == num_before:  # the imports take the longest
            time.sleep(0.01)
        try:
            driver.wait(chance.uniform(0.05, 0.25) if num_kills < 5 else 60)
            break
        except subprocess.TimeoutExpired:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            num_kills += 1
    assert num_kills >= 3
    run = open_run(str(recipe))
    asked = texts_asked(endpoint)
    assert len(set(asked)) == NUM_RECORDS
    assert len(asked) - NUM_RECORDS <= num_kills * RECORDS_PER_PART
    labels = {row["text"]: row["response"] for row in responses(run)}
    assert len(labels) == NUM_RECORDS
    assert all(label == ("Positive" if "even" in text else "Negative") for text, label in labels.items())
    assert findings(run) == []
