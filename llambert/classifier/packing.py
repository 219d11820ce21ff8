"""An encoder that takes texts end to end (``batching.pack_batch``): no padding, and one pass for texts of all lengths.

Only attention knows where a text ends; all other layers work on one token at a time.
"""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

_ATTENTION = "llambert_packed"
# Absolute positions, an `encoder` whose arguments reach attention, and a head that reads a text's first token.
PACKABLE_FAMILIES = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"})


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether ``enable_packing`` works for this family of models."""
    return model.config.model_type in PACKABLE_FAMILIES


def enable_packing(model: PreTrainedModel) -> None:
    """Make a sequence classifier accept packs only, in place; it returns one row of logits per text."""
    AttentionInterface.register(_ATTENTION, _attention)
    model.set_attn_implementation(_ATTENTION)
    encoder = model.base_model.encoder
    assert isinstance(encoder, torch.nn.Module)
    encoder.register_forward_hook(_select_first_tokens, with_kwargs=True)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Each text attends to itself. ``query``, ``key``, ``value``: (1, heads, tokens, size)."""
    _, num_heads, num_tokens, size = query.shape
    attended = query.new_empty(1, num_tokens, num_heads, size)
    start = 0
    for length in kwargs["text_lengths"]:
        end = start + length
        text = (query[:, :, start:end], key[:, :, start:end], value[:, :, start:end])
        attended[:, start:end] = scaled_dot_product_attention(*text, scale=kwargs["scaling"]).transpose(1, 2)
        start = end
    return attended, None


def _select_first_tokens(encoder: torch.nn.Module, _: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """The encoder's output cut down to (texts, 1, size): what the head reads."""
    starts = np.cumsum([0, *kwargs["text_lengths"][:-1]])
    output.last_hidden_state = output.last_hidden_state[0, starts].unsqueeze(1)
    return output
