"""A gold value means the category its writer meant, or nothing; never another one."""

import pytest

from llambert.corpora.gold import GoldReader, most_frequent
from llambert.corpus_recipe import Columns, CorpusRecipe
from llambert.errors import InputError

CATEGORIES = ["positive", "negative"]
DIGITS = {"1": "positive", "0": "negative"}


def reader(gold_labels=None, categories=CATEGORIES):
    corpus = CorpusRecipe(path="x.csv", columns=Columns(gold_label="y"), gold_labels=gold_labels or {})
    return GoldReader(corpus, categories)


def meanings(gold_labels, values, class_names=()):
    read = reader(gold_labels).read(values, class_names)
    return ["?" if unknown else label for label, unknown in zip(*read, strict=True)]


@pytest.mark.parametrize(
    "one", ["1", "1.0", "1.", "1.00", " 1", "1 ", "+1", "1e0", "1.0e+00", "10e-1", "True", "TRUE", "true"]
)
def test_one_is_one_however_it_is_written(one):
    assert meanings(DIGITS, [one]) == ["positive"]


@pytest.mark.parametrize("zero", ["0", "0.0", "-0.0", "0e0", "False", " false "])
def test_zero_is_zero_however_it_is_written(zero):
    assert meanings(DIGITS, [zero]) == ["negative"]


@pytest.mark.parametrize(
    "value",
    ["01", "1,0", "1,000", "0,1", "1.5", "10", "11", "1;0", "[1]", "yes", "t", "¹", "１", "1/1", "2", "NaN", "-1"],
)
def test_what_may_mean_something_else_means_nothing(value):
    assert meanings(DIGITS, [value]) == ["?"]


def test_a_key_may_be_the_number_that_has_a_fraction():
    assert meanings({"1.0": "positive", "0.0": "negative"}, ["1", "0", "1.0"]) == ["positive", "negative", "positive"]
    assert meanings({"0.5": "positive", "1.5": "negative"}, ["0.50", ".5", "1.5e0"]) == ["positive", "?", "negative"]


def test_truth_values_are_numbers_only_where_nothing_else_could_be_meant():
    assert meanings({"true": "positive", "false": "negative"}, ["1", "0.0", "True"]) == [
        "positive",
        "negative",
        "positive",
    ]
    assert meanings({"1": "positive", "2": "negative"}, ["true"]) == ["?"]
    assert meanings({"0": "negative", "1": "positive", "2": "negative"}, ["true", "false"]) == ["?", "?"]
    assert meanings({"1": "positive", "0": "negative", "true": "negative"}, ["true", "1", "false"]) == [
        "negative",
        "positive",
        "?",
    ]


def test_case_spaces_and_composition_make_no_difference_where_one_category_can_be_meant():
    assert meanings({}, ["Positive", " NEGATIVE\n", "positiv"]) == ["positive", "negative", "?"]
    assert meanings({"caf\u00e9": "positive"}, ["cafe\u0301"]) == ["positive"]
    assert meanings({"US": "positive", "us": "negative"}, ["US", "us", "Us"]) == ["positive", "negative", "?"]
    assert meanings({"1": "positive", "1.0": "negative"}, ["1", "1.0", "1.00"]) == ["positive", "negative", "?"]


def test_a_value_mapped_to_null_is_no_label_and_not_unknown():
    assert meanings({"good": "positive", "unsure": None}, ["good", "Unsure", "bad"]) == ["positive", None, "?"]


def test_a_blank_value_is_no_value():
    assert meanings({}, [None, "", "  "]) == [None, None, None]


def test_a_value_mapped_to_what_is_not_a_category_is_refused():
    with pytest.raises(
        InputError, match=r"'good' is mapped to 'postive', which is not a category .*positive, negative"
    ):
        reader({"good": "postive"})


@pytest.mark.parametrize(
    ("gold_labels", "expected"),
    [
        ({}, ["negative", "positive"]),  # by their names, which are the categories
        ({"Neg": "negative", "Pos": "positive"}, ["?", "?"]),
        ({"0": "positive", "1": "negative"}, ["positive", "negative"]),
        ({"negative": "positive", "positive": "negative"}, ["positive", "negative"]),
    ],
)
def test_the_integers_of_named_classes_are_read_by_name_or_by_integer(gold_labels, expected):
    assert meanings(gold_labels, ["0", "1"], ["negative", "positive"]) == expected


def test_a_record_without_a_class_and_a_number_without_a_name():
    assert meanings({}, ["-1", "7", None], ["negative", "positive"]) == [None, "?", None]
    assert meanings({"-1": "negative", "1": "positive"}, ["-1", "1"], ["a", "b"]) == ["negative", "positive"]


def test_classes_named_by_digits_are_never_taken_for_their_neighbours():
    stars = {"1": "negative", "2": "negative", "3": "positive"}
    assert meanings(stars, ["0", "1", "2"], ["1", "2", "3"]) == ["negative", "negative", "positive"]
    counted = {"0": "negative", "1": "negative", "2": "positive"}
    assert meanings(counted, ["0", "1", "2"], ["1", "2", "3"]) == ["negative", "negative", "positive"]
    with pytest.raises(InputError, match=r"class 1 of column 'y' is named '2'.*map the names of all classes"):
        meanings({"1": "negative", "2": "positive"}, ["0"], ["1", "2", "3"])
    with pytest.raises(InputError, match="class 0 of column 'y' is named '1'"):
        meanings({"0": "negative", "1": "positive"}, ["0"], ["1", "0"])


def test_examples_are_the_most_frequent_values_short_and_by_name():
    assert most_frequent(["b", "a", "b"]) == {"b": 2, "a": 1}
    assert most_frequent(["0"], ["bad"]) == {"bad": 1}
    [(shown, num)] = most_frequent(["x" * 1000]).items()
    assert (len(shown), shown[-1], num) == (40, "…", 1)
