"""Errors travel between processes as they are."""

import pickle

import pytest

from llambert.engines import StoppedEarly
from llambert.errors import Damaged, InputError, UnfitModel


@pytest.mark.parametrize(
    "error",
    [
        InputError("corpus.path: x: no such file"),
        UnfitModel("it holds no weights"),
        Damaged("run/labels/part-0.parquet", "it is missing", "`llambert repair` makes it again"),
        StoppedEarly("the budget is used up", []),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_after_the_way_to_another_process(error):
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
