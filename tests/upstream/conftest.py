"""A copy of a real mdistiller checkout, ready for its own tools on a CPU.

A small fake CIFAR-100 and a teacher lie in it.
"""

import importlib
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdkd_plugin
from sdkd_plugin.models import build_model, teacher_checkpoint
from sdkd_plugin.randomness import torch_seeded

# of the package that is tested, whichever is installed
PACKAGE = str(Path(sdkd_plugin.__file__).parents[1])
ROOT = os.environ.get("MDISTILLER_ROOT")
TRAIN_IMAGES, TEST_IMAGES = 200, 100  # two and one of each class: upstream's CRD wants two


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout that MDISTILLER_ROOT names; skips loudly without one."""
    if not ROOT:
        pytest.skip(
            "NOT TESTED AGAINST THE REAL MDISTILLER: "
            "set MDISTILLER_ROOT to a checkout of its commit a08d46f"
        )
    return Path(
        shutil.copytree(
            ROOT, tmp_path / "mdistiller", ignore=shutil.ignore_patterns(".git", "__pycache__")
        )
    )


@pytest.fixture
def ready(checkout: Path) -> Path:
    """The copy, with data and a resnet56 teacher where mdistiller looks for them."""
    write_fake_cifar(checkout / "data" / "cifar-100-python")
    teacher = checkout / teacher_checkpoint("resnet56")
    teacher.parent.mkdir(parents=True)
    with torch_seeded(0, "fake teacher"):
        network = build_model("resnet56", 100)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = (
                    None  # running statistics are those of one batch: else maps are thousands large
                )
        network.train()(torch.randn(32, 3, 32, 32))
        torch.save({"model": network.state_dict()}, teacher)
    return checkout


def write_fake_cifar(folder: Path) -> None:
    """CIFAR-100's python format with random images, each class equally often."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        data = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / name).write_bytes(
            pickle.dumps({"data": data, "fine_labels": [i % 100 for i in range(count)]})
        )
    (folder / "meta").write_bytes(
        pickle.dumps({"fine_label_names": [f"class{i:02}" for i in range(100)]})
    )


@pytest.fixture
def call() -> Callable[..., subprocess.CompletedProcess]:
    """Runs a python program in a checkout with CUDA calls and CIFAR's checksums stubbed; returns
    the finished process.
    """

    def run(
        checkout: Path, *arguments: str, ok: bool = True, path: str = ""
    ) -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([path, str(Path(__file__).parent / "stubs"), PACKAGE]),
        }
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=600
        )
        assert (done.returncode == 0) == ok, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    return run


@pytest.fixture(scope="module")
def upstream() -> Iterator[SimpleNamespace]:
    """mdistiller's registries and config."""
    root = os.environ.get("MDISTILLER_ROOT")
    if not root:
        pytest.skip(
            "MDISTILLER_ROOT is not set: NO METHOD IS COMPARED WITH THE REAL mdistiller here"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        for kind in (Tensor, nn.Module):
            patch.setattr(kind, "cuda", lambda self, *arguments, **options: self)
        names = {
            "distillers": "distiller_dict",
            "models.cifar": "cifar_model_dict",
            "engine.cfg": "CFG",
        }
        yield SimpleNamespace(
            **{
                attribute: getattr(importlib.import_module(f"mdistiller.{m}"), attribute)
                for m, attribute in names.items()
            }
        )
