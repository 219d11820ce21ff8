"""The optimizer, the schedule of its learning rate, weight averaging and mixed precision."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from llambert.recipe import ClassifierRecipe


def create_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused, without decay on biases and normalisation weights."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def linear_schedule(step: int, num_steps: int, warmup_share: float) -> float:
    """Factor of the learning rate at ``step``, from 0: up to 1 over the warm-up, then down to 0."""
    num_warmup = round(warmup_share * num_steps)
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    return (num_steps - step) / max(1, num_steps - num_warmup)


def use_bfloat16(dtype: str, device: torch.device) -> bool:
    """Whether to autocast: for ``auto``, if the hardware multiplies bfloat16 natively."""
    if dtype != "auto":
        return dtype == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def create_average(model: nn.Module, recipe: ClassifierRecipe) -> AveragedModel | None:
    """The running mean of the weights that the recipe asks for."""
    if recipe.averaging == "none":
        return None
    multi_avg_fn = get_ema_multi_avg_fn(recipe.ema_decay) if recipe.averaging == "ema" else None
    return AveragedModel(model, multi_avg_fn=multi_avg_fn, use_buffers=True)
