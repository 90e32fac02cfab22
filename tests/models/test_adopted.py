"""Models from outside that know nothing of this package's contract."""

import re
from pathlib import Path

import pytest
import torch
from cases import CASES, Case
from support import loop
from torch import nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.registry import METHODS, MODELS

pytestmark = pytest.mark.usefixtures("open_doors")
K = 5


class Plain(nn.Module):
    """Logits alone, from maps of three resolutions."""

    def __init__(self, num_classes: int):
        super().__init__()
        widths = (3, 8, 16, 32)
        self.body = nn.Sequential()
        for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            stride = 1 if number == 0 else 2
            self.body.append(nn.Conv2d(before, after, 3, stride, padding=1))
            self.body.append(nn.BatchNorm2d(after))
            self.body.append(nn.ReLU())
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(image).mean((2, 3)))


class Flat(nn.Module):
    """Logits alone, of images of 64 pixels and no others."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(4 * 16 * 16, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(image).flatten(1))


class Given(Plain):
    """Returns whatever `made` makes of the logits."""

    made = staticmethod(lambda logits: {"logits": logits})

    def forward(self, image: torch.Tensor) -> object:
        return self.made(super().forward(image))


class Mapless(nn.Module):
    """Logits alone, from a vector that no map is averaged to, as of a transformer."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(8))
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(image).flatten(2).softmax(2).amax(2)  # [N, 8]
        return self.fc(self.norm(tokens + self.token))


def registered(kind: type[nn.Module], seed: int = 3, **info: object) -> nn.Module:
    MODELS.register("own", **info)(kind)
    torch.manual_seed(seed)
    return build_model("own", K)


def test_it_is_the_same_network_weight_for_weight():
    ours = registered(Plain).eval()
    torch.manual_seed(3)
    theirs = Plain(K).eval()
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    image = torch.randn(2, 3, 16, 16)
    logits, feats = ours(image)
    assert torch.equal(logits, theirs(image)) and type(ours).__name__ == "own"
    maps = [theirs.body[: 3 * (n + 1)](image) for n in range(3)]
    assert all(map(torch.equal, feats["feats"], maps)) and len(feats["feats"]) == 3
    assert all(map(torch.equal, map(torch.relu, feats["preact_feats"]), maps))
    torch.testing.assert_close(feats["pooled_feat"], maps[-1].mean((2, 3)))


@pytest.mark.parametrize("method", ["KD", "AT", "FITNET", "CRD", "SDKD"])
def test_methods_teach_it_and_learn_from_it(method):
    MODELS.register("own")(Plain)
    for pair in ("resnet14/own", "own/resnet14"):
        case = Case(method)
        distiller = loop.build(case, pair=pair)
        steps = loop.Loop(distiller, distiller.phases(loop.config(case)))
        for phase in steps.phases:
            steps.enter(phase)
            assert torch.isfinite(steps.step(0))


def test_the_only_size_that_it_runs_must_be_known():
    with pytest.raises(
        UserError, match=r"model own cannot run an image of 32x32 nor 224x224; .*size=\.\.\.\)"
    ):
        registered(Flat)


def test_the_only_size_that_it_runs_is_said_where_it_is_registered():
    model = registered(Flat, size=64)
    assert model.probe_size == 64 and model(torch.randn(2, 3, 64, 64))[0].shape == (2, K)
    with pytest.raises(UserError, match="own cannot run images of 16x16 .*64x64 is known to run"):
        model(torch.randn(2, 3, 16, 16))


def test_one_that_honours_the_contract_is_left_as_it_is():
    Pair = type("Pair", (Given,), {"made": staticmethod(lambda logits: (logits, {"feats": []}))})
    assert type(registered(Pair)) is Pair


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda logits: {"logits": logits}, "own returns dict; allowed: logits"),
        (lambda logits: (logits, logits, logits), "own returns a tuple of 3; allowed: logits"),
        (lambda logits: logits[:, :, None], r"own returns a tensor \[1, 5, 1\]; allowed: logits"),
    ],
)
def test_what_it_returns_otherwise_is_refused(made, message):
    with pytest.raises(UserError, match=message):
        registered(type("Odd", (Given,), {"made": staticmethod(made)}))


PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
# the methods of each row of its table
ROWS = [
    [re.sub(r" \(.*\)", "", name) for name in line.split("|")[2].strip().split(", ")]
    for line in re.search(r"\| reads .*\n\|[-|]*\n((?:\|.*\n)+)", PAGE.read_text())[1].splitlines()
]


def test_the_page_names_every_method_once():
    assert sorted(sum(ROWS, [])) == sorted({entry.name for entry in METHODS})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_teacher_without_maps_teaches_by_the_methods_that_the_page_names(case, monkeypatch):
    MODELS.register("own")(Mapless)
    monkeypatch.setattr(loop, "calibrate", nn.Module.eval)  # it has no norm of a batch

    def step() -> None:
        distiller = loop.build(case, pair="own/resnet8")
        steps = loop.Loop(distiller, distiller.phases(loop.config(case)))
        for phase in steps.phases:
            steps.enter(phase)
            assert torch.isfinite(steps.step(0))

    if case.name in (*ROWS[0], *ROWS[1], "SRRL"):
        step()
        return
    with pytest.raises(UserError, match=r"\bown\b|no square maps") as told:
        step()
    assert "\n" not in str(told.value)
