"""Where the maps of a network are, on networks small enough to know."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models.anatomy import dissect

K, SIZE = 5, 16


class Small(nn.Module):
    """Three maps, of 16, 8 and 4 pixels; one activation, a module that runs after each."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one = nn.Conv2d(4, 6, 3, 2, 1)
        self.two = nn.Conv2d(6, 8, 3, 2, 1)
        self.fc = nn.Linear(8, K)

    def act(self, x: Tensor) -> Tensor:
        return self.relu(x)

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.stem, self.one, self.two):
            x = self.act(layer(x))
        return self.fc(self.pool(x))


class Apart(Small):
    """The same with an activation for each map."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer, relu in zip((self.stem, self.one, self.two), self.relu, strict=True):
            x = relu(layer(x))
        return self.fc(self.pool(x))


class Functional(Small):
    def act(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Linear(Small):
    def act(self, x: Tensor) -> Tensor:
        return x


class Maximum(Small):
    def pool(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class Inside(nn.Module):
    """Everything in one container, as torchvision's `features`."""

    def __init__(self):
        super().__init__()
        inner = Apart()
        layers = zip((inner.stem, inner.one, inner.two), inner.relu, strict=True)
        self.features = nn.Sequential(*(layer for pair in layers for layer in pair))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 4 * 4, K))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def test_maps_stand_at_the_end_of_each_resolution():
    found = dissect(Apart(), SIZE)
    assert found.maps == found.before == ("relu.0", "relu.1", "relu.2")
    assert (found.channels, found.signed, found.bare) == ((4, 6, 8), False, ())
    assert found.classifier == "fc" and found.averages


def test_a_module_that_runs_several_times_stands_where_it_ran_last():
    assert dissect(Small(), SIZE).maps == ("stem", "one", "relu")


def test_an_activation_that_is_a_function_hides_the_map_before_it():
    # what a module made is seen, and here that is the map before the activation
    found = dissect(Functional(), SIZE)
    assert found.maps == ("stem", "one", "two") == found.bare and not found.averages


def test_maps_without_activation_are_the_ones_before_it_as_well():
    found = dissect(Linear(), SIZE)
    assert found.maps == found.before == found.bare == ("stem", "one", "two")
    assert found.signed and found.averages


def test_a_classifier_that_sees_something_else_than_the_average_is_told_apart():
    found = dissect(Maximum(), SIZE)
    assert found.classifier == "fc" and not found.averages


def test_a_container_that_shrinks_more_than_once_is_looked_into():
    found = dissect(Inside(), SIZE)
    assert found.maps == ("features.1", "features.3", "features.5")
    assert found.classifier == "head.1" and not found.averages


def test_named_maps_win_unless_they_do_not_shrink():
    assert dissect(Apart(), SIZE, ("stem", "one", "two")).maps == ("stem", "one", "two")
    assert dissect(Apart(), SIZE, ("two", "one")).maps == ("relu.0", "relu.1", "relu.2")


def test_it_leaves_the_network_the_random_state_and_the_mode_alone():
    net = Apart()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    net.fc.eval()
    dissect(net, SIZE)
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training and not net.fc.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_network_that_gives_something_else_than_logits_is_refused():
    with pytest.raises(UserError, match="Conv2d does not return logits .* of 16x16"):
        dissect(nn.Conv2d(3, 4, 3), SIZE)
