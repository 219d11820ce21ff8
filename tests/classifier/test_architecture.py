"""What a model takes is found by trying it, in every family."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llambert.classifier.architecture import find_input_format
from tests.fixtures.encoder_families import save_family_classifier

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
