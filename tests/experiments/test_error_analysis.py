"""Table 3 from a file of answers."""

import csv

import pyarrow as pa
import pytest

from llambert.errors import InputError
from llambert.experiments.error_analysis import COLUMNS, count_answers, cross_table, read_answers
from llambert.experiments.experiment import run_experiment
from llambert.experiments.experiment_recipe import Answers, ErrorAnalysis, Review
from llambert.recipe import dump_recipe
from llambert.review.disagreements import draw
from llambert.review.formats import write
from tests.fixtures.synthetic_run import Plan, write_run

# The paper's silver table: model label, person's label, records.
PAPER = [
    ("positive", "positive", 31),
    ("positive", "negative", 16),
    ("positive", "mixed", 13),
    ("negative", "positive", 17),
    ("negative", "negative", 14),
    ("negative", "mixed", 9),
]
OPPOSITE = {"positive": "negative", "negative": "positive"}


def write_answers(path, unanswered=27):
    rows = [(model, person) for model, person, num in PAPER for _ in range(num)] + [("positive", " ")] * unanswered
    lines = [f"r{n},{OPPOSITE[model]},{model},{person}" for n, (model, person) in enumerate(rows)]
    path.write_text("\n".join([",".join(COLUMNS), *lines]))


def test_a_file_of_127_records_gives_the_papers_cross_table(tmp_path):
    write_answers(tmp_path / "answers.csv")
    counts = cross_table(read_answers(Answers(path=str(tmp_path / "answers.csv"))))
    assert counts == {
        "negative": {"negative": 14, "positive": 17, "mixed": 9},
        "positive": {"negative": 16, "positive": 31, "mixed": 13},
    }


def test_the_job_writes_it_beside_the_papers(tmp_path):
    write_answers(tmp_path / "answers.csv")
    answers = {"silver": Answers(path=str(tmp_path / "answers.csv"))}
    experiment = ErrorAnalysis(
        name="errors", experiment="error_analysis", paper="imdb", storage=str(tmp_path / "out"), answers=answers
    )
    page = run_experiment(experiment)
    assert "| model: positive | 16 | 31 | 13 |" in page
    assert "### combined (the paper)" in page
    assert (tmp_path / "out/errors/results.md").read_text() == page
    assert (tmp_path / "out/errors/results.csv").read_text().count("\n") == 7


def test_the_answers_to_a_review_are_counted_by_model_label(tmp_path):
    run = write_run(tmp_path / "run", Plan(num=600))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(run.recipe))
    sample = draw(run, 20)
    write(sample, str(tmp_path))
    lines = (tmp_path / "review.csv").read_text("utf-8-sig").splitlines()
    kept = csv.DictReader(lines)
    answered = [f"{row['item']},{'positive' if number < 15 else 'mixed/neutral'}" for number, row in enumerate(kept)]
    (tmp_path / "kim.csv").write_text("\n".join(["item,answer", *answered]))
    review = Review(recipe=str(tmp_path / "recipe.yaml"), answers=(str(tmp_path / "kim.csv"),))
    counts = count_answers(Answers(review=review))
    assert set(counts) <= {"positive", "negative"}
    assert sum(row["positive"] for row in counts.values()) == 15
    assert sum(row["mixed/neutral"] for row in counts.values()) == 5


def test_every_category_has_its_column_whoever_used_it():
    rows = [("a", "x", "y", "unclear"), ("b", "y", "y", "x"), ("c", "x", "y", None)]
    table = pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    assert cross_table(table) == {"y": {"x": 1, "y": 0, "unclear": 1}}


def test_a_file_without_answers_is_refused(tmp_path):
    (tmp_path / "answers.csv").write_text("record_id,gold_label,model_label,person_label\na,x,y,\n")
    with pytest.raises(InputError, match="no record has an answer in column 'person_label'"):
        read_answers(Answers(path=str(tmp_path / "answers.csv")))
