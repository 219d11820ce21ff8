"""Linear layers of a loaded model through weights in oneDNN's own layout: the fast path of inference on a CPU.

PyTorch gives float32 matrix products to MKL, which on other makers' chips leaves the AVX-512 units idle:
206 GFLOP/s for MiniLM's shapes on two cores of an EPYC (Zen 5), where oneDNN with weights reordered once makes
470 and adds bias and GELU on the way. The operators are those that ``torch.compile`` emits for a frozen
model on a CPU; calling them directly needs no C++ compiler, no warm-up and no compilation per shape.
"""

import torch
from torch import nn
from transformers.activations import GELUActivation


class ReorderedLinear(nn.Module):
    """``nn.Linear`` with its weight in oneDNN's layout, followed by the exact (erf) GELU if asked for."""

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation, self.algorithm = ("gelu", "none") if gelu else ("none", "")

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        return torch.ops.mkldnn._linear_pointwise(hidden, self.weight, self.bias, self.activation, [], self.algorithm)


def available() -> bool:
    """Whether this build of PyTorch has oneDNN and the operators used here."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )


def reorder_linear_layers(model: nn.Module) -> None:
    """Replace every ``nn.Linear`` of a model on the CPU, in place; for inference only.

    In BERT's kind of layer (``dense``, then ``intermediate_act_fn``) an erf GELU joins the product before it.
    """
    for module in list(model.modules()):
        activation = getattr(module, "intermediate_act_fn", None)
        exact = isinstance(activation, GELUActivation) or (
            isinstance(activation, nn.GELU) and activation.approximate == "none"
        )
        dense = getattr(module, "dense", None)
        if exact and isinstance(dense, nn.Linear):
            module.dense = ReorderedLinear(dense, gelu=True)
            module.intermediate_act_fn = nn.Identity()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, ReorderedLinear(child))
