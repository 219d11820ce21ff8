"""``llambert plan`` as a user starts it, on tiny real models, and the run that follows."""

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llambert.integrity.verify import verify
from llambert.planning.costs import load_prices
from llambert.planning.forecast import STAGES, CurvePoint, Pilot, forecast, read_pilot
from llambert.planning.plan import Plan, advise_from_pilot, plan_from_rates, render
from llambert.report.page import report
from llambert.run import open_run
from tests.fixtures.recipes import make_recipe
from tests.fixtures.simulated_classifiers import LAWS, draw_wrong
from tests.fixtures.tiny_classifier import save_tiny_classifier
from tests.fixtures.tiny_llm import save_tiny_llm

ROOT = Path(__file__).resolve().parents[2]
NUM_ROWS, NUM_ANNOTATED, NUM_PILOT = 300, 160, 80
RECIPE = """\
name: films
task: reviews
corpus: {path: films.csv, columns: {record_id: id, text: text}, rows_per_part: 50}
annotator:
  {model: ./llm, dtype: float32, prompt: completion, mode: score, num_records: 160, records_per_part: 20}
parse: {prior_correction: batch}
classifier: {model: ./encoder, epochs: 2, max_length: 32, learning_rate: 1.0e-3}
"""


def job(folder: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / f"{name}.py", "recipe.yaml", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A workplace, and what the plan printed there."""
    folder = tmp_path_factory.mktemp("plan")
    save_tiny_llm(folder / "llm")
    save_tiny_classifier(folder / "encoder")
    words = random.Random(0)
    lines = [f"r{n},the film is {words.choice(['good', 'bad'])} {n}" for n in range(NUM_ROWS)]
    (folder / "films.csv").write_text("\n".join(["id,text", *lines]) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder, job(folder, "plan", "--records", str(NUM_PILOT))


@pytest.mark.slow
def test_a_plan_is_made_and_the_run_goes_on_from_its_pilot(planned, monkeypatch):
    folder, printed = planned
    monkeypatch.chdir(folder)
    run = open_run("recipe.yaml")
    pilot = read_pilot(run)
    assert pilot.num_pilot_records == NUM_PILOT
    assert (pilot.num_corpus, pilot.num_annotated) == (NUM_ROWS, NUM_ANNOTATED)
    assert [stage.stage for stage in forecast(run.recipe, pilot).stages] == list(STAGES)
    assert pilot.num_steps == 2 * -(-round(NUM_ANNOTATED * 0.95) // 16)
    assert np.shape(pilot.curve[0].wrong) == (2, 2, round(pilot.learned_share * NUM_PILOT) // 2)
    assert np.shape(pilot.scores) == np.shape(pilot.curve[-1].wrong)[1:]
    assert "What a guarantee would cost" in printed
    for shown in ("annotate", "LLM on everything", "GPU-hours", "Advised annotations", "list prices of"):
        assert shown in printed
    answers = run.table("answers")
    assert sum(answers.committed_part(name).num_rows for name in answers.part_names()) == NUM_PILOT
    assert f"Of the {NUM_ANNOTATED} answers {NUM_PILOT} are stored by now" in printed
    assert not (folder / "runs/films/pilot").exists()
    stored = {path: path.stat().st_mtime_ns for path in Path(answers.path()).glob("*.parquet")}
    assert len(stored) == NUM_PILOT // 20
    # A second plan measures nothing again.
    table = run.table("plan")
    before = Path(table.path("pilot.json")).stat().st_mtime_ns
    assert "LLM on everything" in job(folder, "plan", "--records", str(NUM_PILOT), "--gain", "2")
    assert Path(table.path("pilot.json")).stat().st_mtime_ns == before
    # The run keeps what the pilot annotated, and its report holds the plan against the fact.
    job(folder, "pipeline")
    assert all(path.stat().st_mtime_ns == when for path, when in stored.items())
    manifest = run.table("responses").require_manifest()
    assert (manifest.num_in, manifest.counts["num_found"]) == (NUM_ANNOTATED, NUM_PILOT)
    assert verify(run) == []
    assert "Plan and fact" in Path(run.table("report").path("report.md")).read_text()
    assert report(run).upstream["plan"] == pilot.measured_at


@pytest.mark.slow
def test_a_plan_counts_the_records_that_can_be_annotated_and_learned_from(planned, monkeypatch):
    folder, _ = planned
    monkeypatch.chdir(folder)
    lines = (folder / "films.csv").read_text().splitlines()
    splits = ["split", *("test" if n % 4 == 0 else "extra" if n % 4 == 1 else "train" for n in range(NUM_ROWS))]
    (folder / "split.csv").write_text("\n".join(f"{a},{b}" for a, b in zip(lines, splits, strict=True)) + "\n")
    settings = ["corpus.path=split.csv", "corpus.columns.split=split", "annotator.num_records=240", "storage=split"]
    options = ["--records", "120", *(word for setting in settings for word in ("--set", setting))]
    refused = subprocess.run(
        [sys.executable, ROOT / "jobs" / "plan.py", "recipe.yaml", *options, "--set", "annotator.splits=[test]"],
        cwd=folder, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "annotator.splits: classifier.regime silver learns from no record of split test" in refused.stderr
    assert not list(folder.glob("split/answers/*/*.parquet"))
    printed = job(folder, "plan", *options, "--set", "annotator.splits=[train,extra]", "--gain", "0.01")
    pilot = read_pilot(open_run("recipe.yaml", [*settings, "annotator.splits=[train,extra]"]))
    assert (pilot.num_corpus, pilot.num_annotated, pilot.num_annotatable) == (NUM_ROWS, 225, 225)
    assert pilot.num_unlearned == 75
    assert f"{pilot.num_unlearned} of the 225 records to annotate are of splits" in printed
    # Of 225 records, a third of which is not learned from, as many as hold 120 that are.
    assert (pilot.num_requested, pilot.num_pilot_records) == (120, round(120 / pilot.learned_share))
    assert f"annotated {pilot.num_pilot_records} records, the first 120 to learn from among them" in printed
    assert 0.5 < pilot.learned_share < 0.8
    assert np.shape(pilot.curve[0].wrong) == (2, 2, 60)


def test_advice_is_in_annotations_of_which_a_part_cannot_be_learned_from():
    sizes = np.array([20, 40, 80])
    wrong = draw_wrong(np.random.default_rng(0), LAWS["steep"], sizes, 0.0, 20_000)
    points = [CurvePoint(num_labels=num, wrong=of_size.tolist()) for num, of_size in zip(sizes, wrong, strict=True)]
    pilot = {"num_pilot_records": 320, "num_corpus": 10**6, "num_annotated": 5_000, "num_steps": 1, "stages": {}}

    def advised(share: float, num_annotatable: int = 10**6) -> str:
        found = Pilot(**pilot, num_annotatable=num_annotatable, learned_share=share, curve=points)
        return next(line for line in render(plan_of(found)) if line.startswith("Advised"))

    whole, half = (int(re.search(r"annotations: ([\d,]+)", advised(s))[1].replace(",", "")) for s in (1.0, 0.5))
    assert half == 2 * whole
    assert "annotations: more than the 50 that are possible" in advised(1.0, 50)


def test_a_curve_that_says_nothing_is_said_to_say_nothing():
    sizes = np.array([20, 40, 80])
    wrong = draw_wrong(np.random.default_rng(0), LAWS["flat"], sizes, 0.04, 80)
    points = [CurvePoint(num_labels=num, wrong=of_size.tolist()) for num, of_size in zip(sizes, wrong, strict=True)]
    numbers = {"num_pilot_records": 160, "num_corpus": 10**6, "num_annotated": 5_000, "num_annotatable": 10**6}
    lines = list(render(plan_of(Pilot(**numbers, num_steps=1, stages={}, curve=points))))
    assert any(
        line.startswith("Each is the mean of 4 trainings; from one to another the figure varies") for line in lines
    )
    assert lines[-1].startswith("Advised annotations: none. The 95 % interval 20 to more than the 1,000,000")
    assert "too wide to say how many" in lines[-1]
    assert "Raise --records" in lines[-1]
    wrong = draw_wrong(np.random.default_rng(0), LAWS["slow"], sizes, 0.0, 400)
    points = [CurvePoint(num_labels=num, wrong=of_size.tolist()) for num, of_size in zip(sizes, wrong, strict=True)]
    lines = list(render(plan_of(Pilot(**numbers, num_steps=1, stages={}, curve=points))))
    least = re.search(r"^Advised annotations: at least ([\d,]+)\. The 95 % interval \1 to", lines[-1])[1]
    assert int(least.replace(",", "")) > 20


def plan_of(pilot: Pilot) -> Plan:
    """The plan of a stored pilot: nothing is run."""
    advice = advise_from_pilot(pilot, 0.005)
    return Plan(make_recipe(), pilot, forecast(make_recipe(), pilot), load_prices(), advice, 0.005)


def test_rates_from_elsewhere_need_no_corpus_and_no_model(tmp_path):
    program = "from llambert.cli import main; main()"
    options = ["--measured", "label=25000:558", "--measured", "annotate=25000:101425", "--corpus-records", "7816000"]
    options += ["--set", "annotator.max_replicas=1", "--set", "label.max_actors=1"]
    recipe = ROOT / "jobs" / "recipes" / "imdb-llama2-70b.yaml"
    done = subprocess.run(
        [sys.executable, "-c", program, "plan", recipe, *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert "7,816,000 records   48 h 28 min" in done.stdout
    assert "7,816,000 records      367 days" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measured", "label=1:1"], "--measured: needs --corpus-records"),
        (["--measured", "corpus=1:1", "--corpus-records", "5"], "the stage is annotate, finetune (in steps) or label"),
        (["--accelerator", "abacus"], "--accelerator: the price table has A100-80GB"),
        (["--prices", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_faults_of_the_options_are_one_line(tmp_path, options, message):
    program = "from llambert.cli import main; main()"
    recipe = ROOT / "jobs" / "recipes" / "reviews.yaml"
    done = subprocess.run(
        [sys.executable, "-c", program, "plan", recipe, *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_steps_of_training_follow_from_the_recipe():
    from llambert.planning.costs import load_prices
    from llambert.planning.forecast import Timing

    recipe = make_recipe(classifier={"epochs": 3, "batch_size": 32, "held_out_share": 0.02, "soup_members": 2})
    planned = plan_from_rates(recipe, {"finetune": Timing(num=1, work_seconds=1)}, 8_000, load_prices())
    assert planned.pilot.num_steps == 2 * 3 * 245
    assert planned.forecast.total.value == 2 * 3 * 245
