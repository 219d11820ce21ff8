"""The section ``guarantee``: what it refuses, and how many records it has decided to certify."""

import pytest

from llambert.guarantee_recipe import GuaranteeRecipe


@pytest.mark.parametrize(
    ("target", "oracle", "num_records", "num"),
    [
        (0.9, "annotator", 1_000, 200),
        (0.95, "annotator", 12_808, 400),
        (0.98, "annotator", 12_808, 1_000),
        (0.95, "annotator", 1_000_000, 5_000),
        (0.95, "annotator", 1_000_000_000, 500_000),
        (0.95, "people", 1_000_000_000, 400),
    ],
)
def test_the_number_of_records_to_certify_follows_target_and_corpus(target, oracle, num_records, num):
    assert GuaranteeRecipe(target=target, oracle=oracle).num_to_certify(num_records) == num
    assert GuaranteeRecipe(target=target, oracle=oracle, certify_records=7).num_to_certify(num_records) == 7
