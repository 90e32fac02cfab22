"""Probing a model reads its shapes and leaves no trace."""

import pytest
import torch
from torch import nn

from sdkd_plugin.models import build_model
from sdkd_plugin.models.probe import pooled_dim, probe


@pytest.mark.parametrize(
    "name, dim", [("resnet8", 64), ("resnet8x4", 256), ("wrn_16_2", 128), ("MobileNetV2", 1280)]
)
def test_pooled_dim(name, dim):
    model = build_model(name, 10)
    assert pooled_dim(model) == dim
    assert probe(model, size=16)[1]["pooled_feat"].shape == (1, dim)


def test_mode_and_every_bit_of_state_stay_as_they_were():
    model = build_model("resnet8", 10).train()
    model.layer2.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    probe(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_modes_come_back_when_the_model_fails():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise ValueError("broken")

    model = Broken().train()
    with pytest.raises(ValueError, match="broken"):
        probe(model)
    assert model.training and model.layer.training


def test_double_precision_models_are_probed_in_double():
    logits, _ = probe(build_model("resnet8", 10).double())
    assert logits.dtype == torch.float64
