"""Label probabilities as they are stored: one encoder, one decoder."""

import numpy as np
import pyarrow as pa
import pytest

from llambert import schema
from llambert.errors import InputError
from llambert.schema import decode_probabilities, encode_probabilities

CATEGORIES = ["no", "maybe", "yes"]
PROBABILITIES = np.array([[0.1, 0.2, 0.7], [0.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.3, 0.3, 0.3]])


def test_each_record_has_a_probability_for_each_category_in_the_order_of_the_task():
    column = encode_probabilities(CATEGORIES, PROBABILITIES)
    assert column.type == schema.PROBABILITIES
    assert column[0].as_py() == [
        {"category": "no", "probability": 0.1},
        {"category": "maybe", "probability": 0.2},
        {"category": "yes", "probability": 0.7},
    ]
    assert column[1].as_py() == [{"category": name, "probability": 0.0} for name in CATEGORIES]


def test_a_record_without_probabilities_is_null_and_read_as_zeros():
    column = encode_probabilities(CATEGORIES, PROBABILITIES, np.array([True, True, False, True]))
    assert [value.is_valid for value in column] == [True, True, False, True]
    expected = np.where(np.arange(4)[:, None] == 2, 0.0, PROBABILITIES)
    np.testing.assert_array_equal(decode_probabilities(column, CATEGORIES), expected)


@pytest.mark.parametrize(
    "column",
    [
        encode_probabilities(CATEGORIES, PROBABILITIES),
        pa.chunked_array([encode_probabilities(CATEGORIES, rows) for rows in np.split(PROBABILITIES, [1, 1, 3])]),
        pa.array(encode_probabilities(CATEGORIES, PROBABILITIES).to_pylist(), schema.PROBABILITIES),
        encode_probabilities(CATEGORIES, np.concatenate([PROBABILITIES[::-1], PROBABILITIES]))[4:],
        encode_probabilities(CATEGORIES[::-1], PROBABILITIES[:, ::-1]),
    ],
    ids=["one array", "in chunks, one of them empty", "made of Python objects", "a slice", "in another order"],
)
def test_what_was_encoded_is_decoded_whatever_its_form(column):
    np.testing.assert_array_equal(decode_probabilities(column, CATEGORIES), PROBABILITIES)


def test_single_precision_is_stored_as_double():
    column = encode_probabilities(CATEGORIES, PROBABILITIES.astype(np.float32))
    np.testing.assert_array_equal(decode_probabilities(column, CATEGORIES), PROBABILITIES.astype(np.float32))


def test_no_records_are_an_empty_column():
    column = encode_probabilities(CATEGORIES, np.zeros((0, 3)))
    assert column.type == schema.PROBABILITIES
    assert decode_probabilities(column, CATEGORIES).shape == (0, 3)
    assert decode_probabilities(pa.chunked_array([], schema.PROBABILITIES), CATEGORIES).shape == (0, 3)


def test_a_category_that_the_task_lacks_is_refused():
    column = encode_probabilities(CATEGORIES, PROBABILITIES)
    with pytest.raises(InputError, match="label_probabilities: 'yes' is no category of the task \\(no, maybe\\)"):
        decode_probabilities(column, CATEGORIES[:2])
