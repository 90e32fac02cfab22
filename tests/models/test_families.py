"""Where a model's stages are: found by names, or declared by the model itself."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.norm import fold
from sdkd_plugin.distillers.sdkd import SDKD
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.models.base import CifarNet, Maps
from sdkd_plugin.models.families import FAMILIES, Family, find_family, has_module, stage_channels
from sdkd_plugin.models.wrn import WideResNet
from sdkd_plugin.randomness import torch_seeded
from sdkd_plugin.registry import MODELS

MEMBERS = {
    "resnet8": "resnet and ShuffleNet",
    "resnet8x4": "resnet and ShuffleNet",
    "ShuffleV1": "resnet and ShuffleNet",
    "ShuffleV2": "resnet and ShuffleNet",
    "ResNet18": "ResNet18/50",
    "vgg8": "vgg",
    "wrn_16_1": "wrn",
    "MobileNetV2": "MobileNetV2",
}
SCALED = Family("scaled", ("up", "down"), ("up", "down"), "feats", pair=False, signed=True)


class Scaled(CifarNet):
    """Two convolutions with names of its own, of which the second makes the map smaller."""

    family = SCALED

    def __init__(self, num_classes: int):
        super().__init__([3, 5, 4])
        self.up = nn.Conv2d(3, 5, 1)
        self.down = nn.Conv2d(5, 4, 2, 2)
        self.fc = nn.Linear(4, num_classes)

    def maps(self, image: Tensor) -> Maps:
        up = self.up(image)
        down = self.down(up)
        return [image, up, down], [image, up, down], down


@pytest.mark.parametrize("name", MEMBERS)
def test_a_model_of_the_zoo_belongs_to_its_family_whose_maps_are_where_it_says(name):
    model = build_model(name, 10)
    family = find_family(model)
    assert family.name == MEMBERS[name] and family in FAMILIES
    assert stage_channels(model, family) == model.get_stage_channels()
    outputs: dict[str, Tensor] = {}

    def keep(path: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
            outputs[path] = output[0] if family.pair else output

        return hook

    for path in family.stages:
        model.get_submodule(path).register_forward_hook(keep(path))
    with torch_seeded(0, "image"):
        maps = model.eval()(torch.randn(2, 3, 32, 32))[1][family.maps]
    # in the order they ran, and just these
    assert list(outputs) == list(family.stages)
    for path, expected in zip(family.stages, maps[1:], strict=True):
        assert torch.equal(outputs[path], expected)
        assert family.signed == bool((expected < 0).any())


def test_every_model_of_the_zoo_belongs_to_one():
    assert {find_family(build_model(entry.name, 10)).name for entry in MODELS} == {
        family.name for family in FAMILIES
    }


def test_a_declared_family_counts_whether_attribute_or_property():
    assert find_family(Scaled(10)) is SCALED
    by_instance = type("ByInstance", (Scaled,), {"family": property(lambda self: SCALED)})
    assert find_family(by_instance(10)) is SCALED
    assert stage_channels(Scaled(10), SCALED) == [3, 5, 4]
    # a resnet may say that only its last stage is one
    resnet = build_model("resnet8", 10)
    resnet.family = replace(find_family(resnet), name="mine", stages=("layer3",))
    assert find_family(resnet).name == "mine"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("resnet", r"Scaled.family is 'resnet'; allowed: a Family"),
        (replace(SCALED, stages=("up", "top"), order=("up", "top")), r"it lacks \['top'\]\)"),
        (replace(SCALED, order=("up",)), r"`order` lists \(it lacks \['down'\]\)"),
        (replace(SCALED, stages=()), r"has the stages \[\]; allowed: .*, at least one"),
    ],
)
def test_a_family_that_the_model_does_not_have_is_refused(declared, message):
    model = Scaled(10)
    model.family = declared
    with pytest.raises(UserError, match=message):
        find_family(model)


def test_has_module_goes_by_path():
    model = build_model("MobileNetV2", 10)
    assert has_module(model, "blocks.6.0") and not has_module(model, "blocks.7")


def test_sdkd_takes_a_declared_family_apart():
    student, teacher = Scaled(10), build_model("resnet8", 10)
    method = SDKD(student, teacher, load_config(None, ["DISTILLER.TYPE", "SDKD"])).train()
    image, target = torch.randn(8, 3, 8, 8), torch.arange(8)
    _, losses = method(image, target)
    sum(losses.values()).backward()
    # 2 stages pair with 3: ceil(1 * 3 / 2) and ceil(2 * 3 / 2)
    assert method.pairs == {1: 2, 2: 3}
    assert all(p.grad is not None for p in method.get_learnable_parameters())


@pytest.mark.parametrize("name", [*MEMBERS, "Scaled"])
def test_fold_affine_equals_the_affine_map_where_it_is_inserted(name):
    with torch_seeded(0, name):
        model = Scaled(10) if name == "Scaled" else build_model(name, 10)
        model.double().eval()
        width = model.maps_through(torch.zeros(1, 3, 32, 32).double(), lambda x: x)[2].shape[1]
        matrix, shift = torch.randn(width, width).double() / width, torch.randn(width).double()
        image = torch.randn(2, 3, 32, 32).double()

    def insert(x: Tensor) -> Tensor:
        return torch.einsum("dc,nchw->ndhw", matrix, x) + shift[:, None, None]

    head_in = model.maps_through(image, insert)[2]
    expected = model.forward_head(head_in)[0]
    before = model(image)[0]
    model.fold_affine(matrix, shift)
    torch.testing.assert_close(model(image)[0], expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(before, expected)


def test_folding_leaves_the_student_itself_alone():
    class Shift(nn.Module):
        def affine(self) -> tuple[Tensor, Tensor]:
            return torch.eye(64).double(), torch.ones(64).double()

    student = WideResNet(16, 1, 10).train()
    state = {name: value.clone() for name, value in student.state_dict().items()}
    folded = fold(student, Shift())
    assert folded.bn1.training and isinstance(folded.bn1, nn.Sequential)
    assert student.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())
