"""What is no file of answers is refused."""

import pytest

from llambert.errors import InputError
from llambert.review.formats import read


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,answer\n1,positive\n", "a.csv: no column item"),
        ("a.json", "[{]", "a.json: neither an export"),
        ("a.json", '[{"x": 1}]', "a.json: neither an export"),
        ("a.csv", "item,answer\nI,positive\nI,negative\n", "answered item I twice"),
    ],
)
def test_files_that_are_no_answers_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read([str(tmp_path / name)])
