"""A language model's head in float32, whatever the rest of it computes in.

In bfloat16 the logits of the answer words have eight bits: at a logit of 20 they are 0.125 apart, and one or two
records in a hundred have two categories of exactly the same probability.
"""

import types

import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel

# Rows of the head that are turned into float32 at once where the device multiplies no 16 bits into 32: with 4,096
# columns 128 MiB.
_ROWS_AT_ONCE = 8_192


def compute_head_in_float32(model: PreTrainedModel) -> str | None:
    """Make the model's logits those of its hidden states and head in float32; why that cannot be, else None.

    The weights stay as they are, so embeddings that share them do too. A logit's scale or cap, which a family applies
    after its head, is applied to float32 as well.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return f"its head is {type(head).__name__}, not a plain linear layer"
    if head.weight.dtype != torch.float32:
        head.forward = types.MethodType(_float32_logits, head)  # type: ignore[method-assign]
    return None


def _float32_logits(head: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    weight = head.weight
    if hidden.is_cuda:  # products of 16 bits are summed in 32, and kept so; nothing is copied
        rows = torch.mm(hidden.reshape(-1, hidden.shape[-1]), weight.t(), out_dtype=torch.float32)
        logits = rows.reshape(*hidden.shape[:-1], -1)
    else:
        states = hidden.float()
        logits = torch.cat([linear(states, rows.float()) for rows in weight.split(_ROWS_AT_ONCE)], dim=-1)
    return logits if head.bias is None else logits + head.bias.float()
