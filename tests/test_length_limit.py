"""How long a text may be: one rule for training and labelling."""

import pytest
import torch

from llambert.classifier.architecture import length_limit
from llambert.classifier.checkpoint import load_checkpoint
from llambert.errors import InputError
from tests.fixtures.encoder_families import save_family_classifier
from tests.fixtures.tiny_classifier import save_tiny_classifier


@pytest.fixture(scope="module")
def with_positions(tmp_path_factory):
    """64 positions."""
    return load_checkpoint(str(save_tiny_classifier(tmp_path_factory.mktemp("bert"))), torch.float32)


@pytest.fixture(scope="module")
def without_positions(tmp_path_factory):
    folder = save_family_classifier(tmp_path_factory.mktemp("t5"), "t5", ("positive", "negative"))
    return load_checkpoint(folder, torch.float32)


@pytest.mark.parametrize(
    ("stated", "wanted", "expected"),
    [
        (64, None, 64),
        (30, None, 30),
        (100, None, 64),
        (-1, None, 64),
        (10**30, None, 64),
        (None, 512, 64),
        (30, 20, 20),
    ],
)
def test_the_least_of_what_is_wanted_stated_and_has_positions_is_the_limit(with_positions, stated, wanted, expected):
    model, tokenizer = with_positions
    tokenizer.model_max_length = stated
    assert length_limit(model, tokenizer, wanted) == expected


@pytest.mark.parametrize(("stated", "wanted", "expected"), [(10**30, None, 4096), (512, None, 512), (-1, 8192, 8192)])
def test_a_model_that_has_no_limit_takes_what_is_wanted_or_4096_tokens(without_positions, stated, wanted, expected):
    model, tokenizer = without_positions
    tokenizer.model_max_length = stated
    assert length_limit(model, tokenizer, wanted) == expected


@pytest.mark.parametrize(
    ("stated", "wanted", "setting"), [(2, None, "model_max_length in its tokenizer"), (64, 2, "classifier.max_length")]
)
def test_a_limit_that_the_special_tokens_fill_is_refused_with_the_setting_to_change(
    with_positions, stated, wanted, setting
):
    model, tokenizer = with_positions
    tokenizer.model_max_length = stated
    with pytest.raises(InputError, match=f"^{setting}.*: 2 leaves no room for a text beside the 2 special tokens"):
        length_limit(model, tokenizer, wanted)
