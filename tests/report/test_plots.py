"""Pictures of categories with any names: each is shown as it is written, and the file is sound XML."""

import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from llambert.annotation.calibration import ReliabilityBin
from llambert.report import plots

NAMES = [
    "$x_1$",
    "$$",
    "$\\frac{$",
    "a\nb",
    "<script>alert(1)</script>",
    "a | b / c .. \"'`",
    "😀",
    "日本語",
    "\u202eعربي",
    "#010203",
    'id="x" url(#y',
    "&amp;",
]


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(plots.standalone(svg).partition("?>")[2])
    return ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]


def confusion(names: list[str]) -> list[str]:
    matrix = np.arange(len(names) ** 2).reshape(len(names), -1)
    return texts(plots.confusion("confusion-silver", matrix, names, "classifier"))


def test_every_name_is_in_the_picture_as_it_is_written():
    shown = confusion(NAMES)
    for name in ["$x_1$", "$$", "$\\frac{$", "a b", "<script>alert(1)<…", "a | b / c .. \"'`", "😀", "日本語"]:
        assert shown.count(name) == 2, name
    for name in ["\\u202eعربي", "#010203", 'id="x" url(#y', "&amp;"]:
        assert shown.count(name) == 2, name


def test_long_names_are_cut_with_an_ellipsis_and_stay_different():
    labels = plots.axis_labels(["x" * 200, "x" * 199 + "y", "short", "z" * 19])
    assert labels == ["1: xxxxxxxxxxxxxx…", "2: xxxxxxxxxxxxxx…", "short", "z" * 17 + "…"]
    assert {len(label) for label in labels} <= {5, 18}
    assert confusion(["x" * 200, "x" * 199 + "y"]).count("2: xxxxxxxxxxxxxx…") == 2


def test_dollars_in_a_legend_are_no_formula():
    svg = plots.reliability_diagram("reliability", {"$x_1$ and $\\frac{$": [ReliabilityBin(3, 0.5, 0.6)]})
    assert "$x_1$ and $\\frac{$" in texts(svg)
