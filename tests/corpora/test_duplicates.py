"""Of the records with one text, one: the first, or else the first of its copies."""

import pyarrow as pa
import pytest

from llambert.corpora.duplicates import unique_text_positions


@pytest.mark.parametrize(
    ("ids", "first", "kept"),
    [
        ([], [], []),
        (["a", "b"], ["a", "b"], [0, 1]),
        (["c", "a", "b"], ["a", "a", "b"], [1, 2]),
        (["c", "b", "d"], ["a", "b", "a"], [0, 1]),
    ],
)
def test_each_text_is_kept_once(ids, first, kept):
    columns = (pa.chunked_array([values], pa.string()) for values in (ids, first))
    assert unique_text_positions(*columns).to_pylist() == kept
