"""What is said of a gold column after the corpus is read."""

import pytest

from llambert.corpora import checks
from llambert.corpus_recipe import Columns, CorpusRecipe


@pytest.mark.parametrize(
    ("counts", "warned"),
    [({"num_gold": 0}, True), ({"num_gold": 1}, False), ({"num_gold": 0, "num_unknown_gold": 2}, False)],
)
def test_a_gold_column_without_one_value_is_warned_of(counts, warned):
    corpus = CorpusRecipe(path="x.csv", columns=Columns(gold_label="y"))
    found = [line for line in checks.warnings(counts, corpus) if "No gold label was found: column 'y' is empty" in line]
    assert bool(found) == warned
    assert not [line for line in checks.warnings(counts, CorpusRecipe(path="x.csv")) if "No gold label" in line]
