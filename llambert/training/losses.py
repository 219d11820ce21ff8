"""The objective: one loss per record, against a distribution over the categories."""

import numpy as np
import torch

from llambert.recipe import ClassifierRecipe


def record_losses(logits: torch.Tensor, targets: torch.Tensor, recipe: ClassifierRecipe) -> torch.Tensor:
    """Losses of shape (records,) of ``logits`` against ``targets``, both of shape (records, categories)."""
    logits = logits.float()
    if recipe.loss == "gce":
        return generalised_cross_entropy(logits, targets, recipe.gce_exponent)
    return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1)


def generalised_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, exponent: float) -> torch.Tensor:
    """``sum_c t_c (1 - p_c^q) / q`` (Zhang & Sabuncu 2018, arXiv 1805.07836, eq. 6).

    Between cross-entropy (q towards 0) and mean absolute error (q = 1): labels that the model finds improbable have
    smaller gradients than with cross-entropy.
    """
    powers = (exponent * logits.log_softmax(dim=-1)).exp()
    return (targets * (1 - powers)).sum(dim=-1) / exponent


def smooth_labels(targets: np.ndarray, share: float) -> np.ndarray:
    """Label smoothing (Szegedy et al. 2016): ``share`` of each row spread evenly over the categories."""
    return (1 - share) * targets + share / targets.shape[1]


def class_weights(targets: np.ndarray) -> np.ndarray:
    """A weight per record, of mean 1, that gives all categories present the same total weight."""
    mass = targets.sum(axis=0)
    weights = np.divide(1.0, mass, out=np.zeros_like(mass), where=mass > 0)
    return scale_to_mean_one(targets @ weights)


def scale_to_mean_one(weights: np.ndarray) -> np.ndarray:
    """Weights scaled to a mean of 1, so that they do not change the effective learning rate."""
    return weights / weights.mean() if len(weights) else weights
