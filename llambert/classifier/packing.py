"""An encoder that takes texts end to end (``batching.pack_batch``): no padding, and one pass for texts of all lengths.

Only attention knows where a text ends; all other layers work on one token at a time. Neighbours of one length attend
together, as a batch without a mask: what FlashAttention takes, in any dtype and on any device.
"""

from typing import Any

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
    # A compiled model would be compiled again for each batch's lengths if it saw the loop over them.
    attend = _attend_by_run_opaque if torch.compiler.is_compiling() else _attend_by_run
    return attend(query, key, value, kwargs["text_runs"], kwargs["scaling"]), None


def _attend_by_run(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, runs: torch.Tensor, scale: float
) -> torch.Tensor:
    """(1, tokens, heads, size); ``runs``: int64 (runs, 2) on the CPU, number of texts and their length."""
    _, num_heads, num_tokens, size = query.shape
    attended = query.new_empty(1, num_tokens, num_heads, size)
    start = 0
    for num, length in runs.tolist():
        end = start + num * length
        q, k, v = (each[0, :, start:end].view(num_heads, num, length, size) for each in (query, key, value))
        found = scaled_dot_product_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), scale=scale)
        attended[0, start:end] = found.transpose(1, 2).reshape(end - start, num_heads, size)
        start = end
    return attended


@torch.library.custom_op("llambert::attend_by_run", mutates_args=())
def _attend_by_run_opaque(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, runs: torch.Tensor, scale: float
) -> torch.Tensor:
    """``_attend_by_run`` as one operator, into which ``torch.compile`` does not look."""
    return _attend_by_run(query, key, value, runs, scale)


@_attend_by_run_opaque.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, runs: torch.Tensor, scale: float) -> torch.Tensor:
    _, num_heads, num_tokens, size = query.shape
    return query.new_empty(1, num_tokens, num_heads, size)


def _select_first_tokens(encoder: torch.nn.Module, _: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """The encoder's output cut down to (texts, 1, size): what the head reads."""
    output.last_hidden_state = output.last_hidden_state[0, kwargs["text_starts"]].unsqueeze(1)
    return output
