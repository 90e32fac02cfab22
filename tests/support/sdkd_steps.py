"""What the tests of SDKD share: small distillers, batches and steps."""

import torch
from torch import Tensor, nn

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.proxy import ProxyStage
from sdkd_plugin.distillers.sdkd import SDKD
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

CLASSES = 10
PROXY_WEIGHTS = (
    "PROXY_WEIGHT",
    "FEAT_WEIGHT",
    "PROXY_CE_WEIGHT",
    "MUTUAL_WEIGHT",
    "PROXY_TEACHER_WEIGHT",
)
WEIGHTS = ("CE_WEIGHT", "TEACHER_WEIGHT", *PROXY_WEIGHTS)


def config(loss: dict[str, float] | None = None, **settings: object):
    """The config with these keys of the SDKD node and of its LOSS node changed."""
    pairs = {"DISTILLER.TYPE": "SDKD"} | {f"SDKD.{key}": value for key, value in settings.items()}
    pairs |= {f"SDKD.LOSS.{key}": value for key, value in (loss or {}).items()}
    return load_config(None, [str(word) for pair in pairs.items() for word in pair])


def only(*names: str) -> dict[str, float]:
    """Loss weights: 1 for these, 0 for all others."""
    assert set(names) <= set(WEIGHTS)
    return {name: float(name in names) for name in WEIGHTS}


def build(
    student: str = "resnet8",
    teacher: str = "resnet14",
    seed: int = 0,
    loss: dict | None = None,
    **settings,
) -> SDKD:
    """SDKD in train mode; the same seed gives the same student, teacher and fusion weights,
    whatever the settings.
    """
    with torch_seeded(seed, "models"):
        models = build_model(student, CLASSES), build_model(teacher, CLASSES)
    with torch_seeded(seed, "fusion"):
        return SDKD(*models, config(loss, **settings)).train()


def batch(
    number: int = 0, size: int = 16, n: int = 8, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Images and labels of step `number`."""
    with torch_seeded(number, "batch"):
        return {
            "image": torch.randn(n, 3, size, size, dtype=dtype),
            "target": torch.randint(CLASSES, (n,)),
        }


def optimizer(distiller: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        distiller.get_learnable_parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
    )


def step(
    distiller: nn.Module, sgd: torch.optim.SGD, data: dict[str, Tensor], epoch: int = 1
) -> dict[str, Tensor]:
    """One training step; returns the losses before it."""
    _, losses = distiller(**data, epoch=epoch)
    sgd.zero_grad()
    sum(losses.values()).backward()
    sgd.step()
    return {name: value.detach() for name, value in losses.items()}


def equal_bits(first: nn.Module, second: nn.Module) -> bool:
    """Whether both modules have the same state, key for key and bit for bit."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def run_proxy(distiller: SDKD, image: Tensor, epoch: int = 1) -> tuple[Tensor, list[Tensor]]:
    """z_P and P's maps."""
    feats = distiller.student(image)[1]
    teacher_maps = distiller.teacher_maps(distiller.teacher(image)[1])
    return distiller.proxy(
        image, distiller.student, feats[distiller.proxy.family.maps], teacher_maps, epoch
    )


def leftovers(distiller: SDKD) -> list[tuple[str, str]]:
    """Attributes of the proxy's modules, but for registered tensors, that hold a graph or a map."""
    found = []
    for path, module in distiller.proxy.named_modules():
        for name, value in vars(module).items():
            if (
                isinstance(value, Tensor)
                and ".fusion" not in path
                and (value.requires_grad or isinstance(module, ProxyStage))
            ):
                found.append((path, name))
    return found
