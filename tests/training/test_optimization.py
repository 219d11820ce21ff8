import numpy as np
import pytest
import torch

from llambert.recipe import ClassifierRecipe
from llambert.training.encoder import load_encoder
from llambert.training.optimization import create_average, create_optimizer, linear_schedule, use_bfloat16
from tests.fixtures.tiny_encoder import save_tiny_encoder


def test_weight_decay_spares_biases_and_normalisation(tmp_path):
    model = load_encoder(ClassifierRecipe(model=save_tiny_encoder(tmp_path)), ["no", "yes"]).model
    decayed, spared = create_optimizer(model, 1e-3, 0.01).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("LayerNorm" in names[id(p)] or names[id(p)].endswith("bias") for p in spared["params"])
    assert not any("LayerNorm" in names[id(p)] or names[id(p)].endswith("bias") for p in decayed["params"])
    assert spared["weight_decay"] == 0


def test_the_schedule_rises_to_one_and_falls_to_zero():
    factors = [linear_schedule(step, 100, 0.1) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11)
    assert max(factors) == factors[10] == 1
    assert factors[100] == 0
    assert np.allclose(np.diff(factors[10:]), -1 / 90)


def test_the_moving_average_and_the_mean_of_the_tail_are_what_their_names_say():
    weights = [torch.tensor([float(n)]) for n in (1, 2, 3)]
    results = {}
    for kind in ("ema", "tail"):
        layer = torch.nn.Linear(1, 1, bias=False)
        average = create_average(layer, ClassifierRecipe(model="m", averaging=kind, ema_decay=0.9))
        for weight in weights:
            layer.weight.data = weight[None]
            average.update_parameters(layer)
        results[kind] = average.module.weight.item()
    assert results["tail"] == pytest.approx(2.0)
    assert results["ema"] == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3)
    assert create_average(torch.nn.Linear(1, 1), ClassifierRecipe(model="m")) is None


def test_bfloat16_is_used_where_told_whatever_the_chip():
    cpu = torch.device("cpu")
    assert use_bfloat16("bfloat16", cpu)
    assert not use_bfloat16("float32", cpu)
    assert use_bfloat16("auto", cpu) in (True, False)
