"""People as the oracle of a guarantee: what they are asked goes out blind, what they answer counts and stays."""

import csv
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llambert.cli import app
from llambert.execution.in_process import IN_PROCESS
from llambert.integrity.verify import verify
from llambert.pipeline import pipeline
from tests.fixtures.growing_corpora import ScriptedAnnotator, open_growing, write_recipe
from tests.fixtures.openai_endpoint import KEY, serve
from tests.fixtures.tiny_encoder import NEGATIVE, POSITIVE

GUARANTEE = {"target": 0.9, "oracle": "people", "certify_records": 120, "escalate": "never"}


@pytest.fixture(scope="module")
def annotator():
    with serve(ScriptedAnnotator()) as endpoint:
        yield endpoint


def llambert(*arguments: str) -> str:
    """The output of a command that must succeed."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def answer(path: Path, person: str = "kim", num: int | None = None) -> Path:
    """A copy of an exported CSV with ``person``'s answers, by the words of the texts, to its first ``num`` items."""
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    for row in rows[:num]:
        words = row["text"].split()
        good = sum((word in POSITIVE) - (word in NEGATIVE) for word in words) > 0
        row |= {"answer": "positive" if good else "negative", "annotator": person}
    answered = path.with_name(f"{person}.csv")
    with answered.open("w", newline="", encoding="utf-8") as stream:
        out = csv.DictWriter(stream, rows[0].keys())
        out.writeheader()
        out.writerows(rows)
    return answered


def test_it(tmp_path, annotator, monkeypatch, capsys):
    write_recipe(tmp_path / "films", annotator.base_url, corpus={"columns": {}}, classifier={"epochs": 2}, guarantee=GUARANTEE)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path / "films")
    pipeline(open_growing(), IN_PROCESS)
    print(capsys.readouterr().out[-3000:])
    print(llambert("review", "export", "recipe.yaml", "--certify"))
    print(llambert("review", "import", "recipe.yaml", str(answer(Path("review/review.csv"))), "--save"))
    pipeline(run := open_growing(), IN_PROCESS)
    print(run.table("certificate").require_manifest().model_dump(include={"counts","measures"}))
    print(run.table("decisions").require_manifest().model_dump(include={"counts","measures"}))
    print(run.table("deferred").require_manifest().model_dump(include={"counts","measures"}))
    print(llambert("review", "export", "recipe.yaml", "--escalate", "20"))
    print(llambert("review", "import", "recipe.yaml", str(answer(Path("review/review.csv"))), "--save"))
    pipeline(run := open_growing(), IN_PROCESS)
    print(run.table("decisions").require_manifest().model_dump(include={"counts","measures"}))
    print(verify(run))
    print(llambert("status", "recipe.yaml"))
    assert 0
