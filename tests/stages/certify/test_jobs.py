"""The jobs that certify and escalate, as programs, and what a start refuses before it reads a record."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llambert.cli import app
from llambert.errors import InputError
from tests.fixtures.certified_runs import CERTIFY_RECORDS, NUM_RECORDS
from tests.fixtures.growing_corpora import open_growing

JOBS = Path(__file__).parents[3] / "jobs"


def submit(name: str, *settings: str) -> subprocess.CompletedProcess:
    options = [option for setting in settings for option in ("--set", setting)]
    command = [sys.executable, JOBS / f"{name}.py", "recipe.yaml", "--in-process", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_jobs_say_what_they_have_done(films):
    early = submit("escalate")
    assert early.returncode == 2
    assert "is not complete: it has no manifest.json; `llambert run` completes it" in early.stderr
    certified = submit("certify")
    assert certified.returncode == 0, certified.stderr
    assert f"certify: complete, {CERTIFY_RECORDS} of {CERTIFY_RECORDS} records" in certified.stdout
    escalated = submit("escalate")
    assert escalated.returncode == 0, escalated.stderr
    assert f"escalate: complete, {NUM_RECORDS} of {NUM_RECORDS} records" in escalated.stdout
    assert open_growing().table("decisions").read_manifest() is not None


@pytest.mark.slow
def test_a_job_that_waits_for_people_says_so(films):
    waiting = submit("certify", "guarantee.oracle=people")
    assert waiting.returncode == 0, waiting.stderr
    assert "`llambert review export --certify`" in waiting.stdout
    assert submit("escalate", "guarantee.oracle=people").returncode == 0


def test_a_guarantee_that_cannot_be_given_is_refused_before_anything_is_begun(films):
    settings = ["--set", "annotator.stratify_by=split", "--set", "storage=fresh"]
    result = CliRunner().invoke(app, ["run", "recipe.yaml", "--in-process", *settings])
    assert isinstance(result.exception, InputError)
    assert "annotator.stratify_by: a guarantee needs uniform samples" in str(result.exception)
    assert not Path("fresh").exists()
