import numpy as np
import pytest
import torch

from llambert.recipe import ClassifierRecipe
from llambert.training.losses import class_weights, generalised_cross_entropy, record_losses, smooth_labels

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]])


def test_hard_and_soft_loss_are_cross_entropies_against_the_target_distribution():
    targets = torch.tensor([[0.7, 0.1, 0.2], [0.0, 1.0, 0.0]])
    losses = record_losses(LOGITS, targets, ClassifierRecipe(model="m", loss="soft"))
    expected = torch.nn.functional.cross_entropy(LOGITS, targets, reduction="none")
    assert torch.allclose(losses, expected)


def test_generalised_cross_entropy_is_the_papers_formula_and_ends_in_both_its_limits():
    targets = torch.eye(3)[:2]
    p = LOGITS.softmax(-1).diagonal()
    assert torch.allclose(generalised_cross_entropy(LOGITS, targets, 0.7), (1 - p**0.7) / 0.7)
    assert torch.allclose(generalised_cross_entropy(LOGITS, targets, 1.0), 1 - p)
    assert torch.allclose(generalised_cross_entropy(LOGITS, targets, 1e-4), -p.log(), atol=1e-3)


def test_a_label_held_improbable_pulls_less_under_generalised_cross_entropy():
    logits = torch.tensor([[6.0, -6.0]], requires_grad=True)
    wrong = torch.tensor([[0.0, 1.0]])
    (plain,) = torch.autograd.grad(record_losses(logits, wrong, ClassifierRecipe(model="m")).sum(), logits)
    robust_recipe = ClassifierRecipe(model="m", loss="gce")
    (robust,) = torch.autograd.grad(record_losses(logits, wrong, robust_recipe).sum(), logits)
    assert robust.abs().max() < 0.01 < 0.9 < plain.abs().max()


def test_smoothing_keeps_rows_summing_to_one():
    rows = smooth_labels(np.eye(4), 0.1)
    assert rows[0].tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025])


def test_class_weights_give_each_category_the_same_mass_and_a_mean_of_one():
    targets = np.eye(3)[[0] * 90 + [1] * 10]  # the third category has no record at all
    weights = class_weights(targets)
    assert weights.mean() == pytest.approx(1)
    assert weights[:90].sum() == pytest.approx(weights[90:].sum())
