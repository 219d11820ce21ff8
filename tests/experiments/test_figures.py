"""The figures of an experiment: curves, and files with labelled axes."""

from llambert.experiments.figures import figure
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from tests.fixtures.hand_made import results
from tests.fixtures.labelled_films import open_experiment


def test_figures_are_png_and_svg_with_labelled_axes_and_both_panels(folder):
    wrong = open_experiment(folder, "mislabel", paper="imdb", shares=[0.0, 0.2])
    found = results({(END_TO_END, 0.0): [0.9, 0.91], (ANNOTATOR, 0.035): [0.8, 0.82], (FROZEN, 0.0): [0.7, 0.71]})
    drawn = figure(wrong, found)
    assert drawn["png"].startswith(b"\x89PNG")
    svg = drawn["svg"].decode()
    assert svg.count("labels made wrong on purpose (% of the training labels)") == 2
    assert svg.count("accuracy on gold test records (%)") == 2
    assert "own errors: 3.5 %" in svg
    assert "own errors: 4.61 %" in svg
    assert figure(open_experiment(folder, "regimes"), found) == {}


def test_a_model_of_any_name_stands_in_the_title_of_a_figure(folder):
    wrong = open_experiment(folder, "mislabel", shares=[0.0, 0.1])
    classifier = wrong.classifier.model_copy(update={"model": "$$" + "x" * 200 + "$\\frac{/encoder"})
    drawn = figure(wrong.model_copy(update={"classifier": classifier}), results({(END_TO_END, 0.1): [0.9]}))
    assert f"$${'x' * 27}…".encode() in drawn["svg"]
