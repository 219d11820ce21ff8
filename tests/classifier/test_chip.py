"""What follows from a GPU: its dtype and how many tokens are a batch. Decided from facts, so no GPU is needed."""

import pytest
import torch
from transformers import AutoConfig

from llambert.classifier.chip import batch_tokens_for, half_precision, require_dtype, resolved_dtype
from llambert.errors import InputError

T4, A100, L4, H100 = (7, 5), (8, 0), (8, 9), (9, 0)
ROBERTA_LARGE = AutoConfig.for_model("roberta", hidden_size=1024, intermediate_size=4096)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [([], None), ([T4], "float16"), ([A100], "bfloat16"), ([L4, H100], "bfloat16"), ([T4, A100], "bfloat16")],
)
def test_half_precision_is_bfloat16_unless_every_gpu_is_too_old(gpus, expected):
    assert half_precision(gpus) == expected


def test_a_gpu_too_old_for_bfloat16_is_refused_in_one_line_that_says_what_to_set():
    with pytest.raises(InputError, match=r"^label.dtype: bfloat16 .* Tesla T4 has 7.5; set label.dtype: float16$"):
        require_dtype("bfloat16", "Tesla T4", T4)
    require_dtype("float16", "Tesla T4", T4)
    require_dtype("float32", "Tesla T4", T4)
    require_dtype("bfloat16", "NVIDIA A100", A100)


def test_a_cpu_computes_in_float32_unless_told_otherwise():
    assert resolved_dtype(None, torch.device("cpu")) == "float32"
    assert resolved_dtype("bfloat16", torch.device("cpu")) == "bfloat16"


@pytest.mark.parametrize(
    ("gigabytes", "share", "expected"),
    [
        (80, 1.0, 65_536),  # an A100 or H100
        (16, 1.0, 65_536),  # a T4: 2 GB of 4
        (16, 0.25, 32_768),  # four actors on it
        (2, 1.0, 16_384),
        (0.1, 1.0, 4_096),
    ],
)
def test_a_batch_is_as_large_as_saturates_a_gpu_and_fits_a_quarter_of_its_memory(gigabytes, share, expected):
    assert batch_tokens_for(int(gigabytes * 2**30), share, ROBERTA_LARGE, bytes_per_value=2) == expected
