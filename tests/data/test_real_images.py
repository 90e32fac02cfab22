"""Whole runs on real images: a folder of 200 classes, and libraries' networks at 224 pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdkd_plugin.__main__ import main
from sdkd_plugin.models import build_model

TRAIN, VAL = 6, 2  # images of each class


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """Tiny-ImageNet in its own layout, 200 classes of 64x64 pixels, made of CIFAR-100's images: a
    class's odd ones are a class of their own.
    """
    with np.load(shared / "data" / "cifar100.npz") as arrays:
        images, labels = arrays["x_train"], arrays["y_train"]
    root = tmp_path / "tiny"
    lines = []
    for label in range(200):
        own = np.flatnonzero(labels == label // 2)[label % 2 :: 2][: TRAIN + VAL]
        name = f"n{label:08}"
        for number, position in enumerate(own):
            image = Image.fromarray(images[position]).resize((64, 64), Image.Resampling.BICUBIC)
            file = root / "train" / name / "images" / f"{name}_{number}.JPEG"
            if number >= TRAIN:
                file = root / "val" / "images" / f"val_{len(lines)}.JPEG"
                lines.append(f"{file.name}\t{name}\t0\t0\t63\t63\n")
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file, quality=95)
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def result() -> dict:
    (path,) = Path("output").rglob("result.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_folder_of_200_classes_trains_from_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        *("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(folder), "DATASET.CACHE", "cache"),
        *("SOLVER.EPOCHS", "1", "SOLVER.SCHEDULE_EPOCHS", "240", "DISTILLER.STUDENT", "resnet8"),
    ]
    root = Path(__file__).resolve().parents[2]
    file = root / "configs" / "cifar100" / "vanilla" / "resnet8.yaml"
    assert main(["train", "--cfg", str(file), *words]) == 0
    run = result()
    assert run["train_images"] == 200 * TRAIN and len(list(Path("cache").glob("*/pixels"))) == 2
    student = next(Path("output").rglob("student_latest"))
    spec = torch.load(student, weights_only=True)["data"]
    assert spec["image_size"] == 64 and len(spec["classes"]) == 200


@pytest.mark.slow
def test_libraries_networks_take_steps_at_224_pixels(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = build_model("torchvision:resnet18", 200)
    torch.save({"model": teacher.state_dict()}, "teacher.pth")
    words = [
        *("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(folder)),
        *("DATASET.TRANSFORM", "imagenet", "DATASET.DECODE", "always", "DATASET.SUBSET", "0.01"),
        *("DATASET.VAL_FRACTION", "0.0", "DISTILLER.TEACHER", "torchvision:resnet18"),
        *("DISTILLER.STUDENT", "timm:mobilenetv3_small_050"),
        *("DISTILLER.TEACHER_CKPT", "teacher.pth", "SOLVER.BATCH_SIZE", "50"),
        *("SOLVER.EPOCHS", "1", "SOLVER.SCHEDULE_EPOCHS", "240"),
    ]
    root = Path(__file__).resolve().parents[2]
    file = root / "configs" / "cifar100" / "kd" / "res56_res20.yaml"
    assert main(["train", "--cfg", str(file), *words]) == 0
    run = result()
    assert run["train_images"] == 200
    student = next(Path("output").rglob("student_latest"))
    assert torch.load(student, weights_only=True)["data"]["image_size"] == 224
