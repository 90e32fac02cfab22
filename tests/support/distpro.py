"""DistPro-style's tests: a small method, its batches, its optimiser."""

import torch
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.distillers.distpro import (
    DistPro,
)
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

N = 4
TARGET = torch.arange(N)
SEARCH, TRAIN = Phase("search", 3, scores=False, validation=0.2), Phase("train", 5)


def build(*words: str, pair: str = "resnet8/resnet8", phase: Phase | None = SEARCH) -> DistPro:
    teacher, student = pair.split("/")
    with torch_seeded(0, "nets"):
        cfg = scaled_config(
            load_config(None, ["DISTILLER.TYPE", "DISTPRO", "DISTPRO.SEARCH_EPOCHS", "3", *words])
        )
        distiller = DistPro(build_model(student, 10), build_model(teacher, 10), cfg)
    distiller.phase = phase
    return distiller.train()


def batch(number: int, size: int = 8) -> dict[str, Tensor]:
    return {
        "image": formula((N, 3, size, size), f"image{number}").float(),
        "target": (TARGET + number) % 10,
    }


def sgd(distiller: DistPro, lr: float = 0.05) -> torch.optim.SGD:
    return torch.optim.SGD(
        distiller.get_learnable_parameters(), lr=lr, momentum=0.9, weight_decay=5e-4
    )


def double(data: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**data, "image": data["image"].double()}
