"""Pages and figures say what the cells say, beside the paper's own numbers."""

import re

from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from llambert.experiments.pages import cross_tables, page, paper_cross_tables
from tests.fixtures.hand_made import results
from tests.fixtures.labelled_films import open_experiment


def test_a_table_half_done_says_so_and_shows_what_is_there(folder):
    experiment = open_experiment(folder, "regimes", paper="umls_regions")
    shown = page(experiment, results({("tiny", "gold"): [0.94, 0.95]}, num_places=9), [], None)
    assert "Half done: 2 of 9 cells" in shown
    assert "| tiny | 94.50 ± 6.35 |  |  |" in shown
    assert "| bert-large (the paper) | 94.84 ± 0.25 | 95.70 ± 0.21 | 96.14 ± 0.42 |" in shown
    assert "2 trainings of 1 min together" in shown


def test_table_2_has_the_papers_four_regimes(folder):
    experiment = open_experiment(
        folder, "regimes", paper="imdb", regimes=["gold", "silver", "silver_extra", "combined"]
    )
    shown = page(experiment, results({("tiny", "silver_extra"): [0.9]}), [], None)
    assert "| roberta-large (the paper) | 96.54 | 94.83 | 94.98 | 96.68 |" in shown
    assert "90.00 (one seed)" in shown


def test_the_figures_tables_stand_beside_the_papers(folder):
    counts = open_experiment(folder, "label_count", paper="imdb", silver_counts=[200, 400])
    shown = page(counts, results({("silver", 200): [0.9, 0.9], ("gold", 200): [0.92]}), [], "figure.svg")
    assert "| 200 | 90.00 ± 0.00 | 92.00 (one seed) |" in shown
    assert "| 12,800 | 94.85 ± 0.07 | 96.17 ± 0.05 |" in shown
    wrong = open_experiment(folder, "mislabel", paper="imdb", shares=[0.0, 0.2])
    shown = page(wrong, results({(END_TO_END, 0.2): [0.9], (ANNOTATOR, 0.035): [0.8], (FROZEN, 0.2): [0.7]}), [], None)
    assert "| 3.5 % |  | 80.00 (one seed) |  |" in shown
    assert re.search(r"\| 2 % \| 96.47 .*\n\| 4.61 % \|  \| 94.83 \|  \|\n\| 5 % \| 96.35", shown)


def test_cross_tables_have_the_papers_shape():
    shown = cross_tables(paper_cross_tables())
    assert "| model: positive | 31 | 16 | 13 |" in shown
    assert shown.count("100 records with a person's answer.") == 2


def test_labels_of_any_name_stay_one_cell_of_a_cross_table():
    counts = {"silver": {"a | b": {"a | b": 1, "$$\n": 0}, "$$\n": {"a | b": 2, "$$\n": 3}}}
    lines = cross_tables(counts).splitlines()
    assert r"|  | person: a \| b | person: \$\$ |" in lines
    assert r"| model: \$\$ | 2 | 3 |" in lines
