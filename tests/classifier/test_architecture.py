"""A model's input format is detected by running it, and its length limit is one rule for training and labelling."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llambert.classifier.architecture import find_input_format, length_limit
from llambert.classifier.checkpoint import load_checkpoint
from llambert.errors import InputError
from tests.fixtures.encoder_families import save_family_classifier
from tests.fixtures.tiny_classifier import save_tiny_classifier

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("family", "side", "dtype"),
    [
        *((family, "right", dtype) for family in ("bert", "roberta", "gpt2") for dtype in (FLOAT32, BFLOAT16)),
        ("xlnet", "left", FLOAT32),
        ("fnet", None, FLOAT32),
    ],
)
def test_where_a_family_may_be_padded_is_found_in_either_precision(family, side, dtype, tmp_path):
    folder = save_family_classifier(tmp_path, family, ("negative", "positive"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    model.config.pad_token_id = 1
    assert find_input_format(model, tokenizer).padding_side == side


def test_families_with_fused_attention_need_no_mask_where_nothing_is_padded(tmp_path):
    for family in ("bert", "roberta", "distilbert", "modernbert"):
        folder = save_family_classifier(tmp_path / family, family, ("negative", "positive"))
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        form = find_input_format(model, AutoTokenizer.from_pretrained(folder))
        assert form.model_inputs([np.array([0, 5, 1, 2])])["attention_mask"] is None
        assert form.model_inputs([np.array([0, 5, 1, 2]), np.array([0, 2])])["attention_mask"] is not None


# Length limits


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
