"""Folders of images as users have them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from sdkd_plugin.data.dataset import Dataset

# (suffix, mode, size) of the images of each class of `write_mixed`
MIXED = [
    (".png", "RGB", (20, 31)),
    (".jpg", "L", (40, 25)),
    (".png", "LA", (33, 33)),
    (".png", "P", (18, 60)),
    (".png", "RGBA", (64, 20)),
    (".jpeg", "CMYK", (30, 40)),
    (".bmp", "1", (25, 25)),
    (".png", "I;16", (50, 21)),
    (".webp", "RGB", (24, 24)),
]


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """[height, width, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(seed: int, size: int = 6) -> bytes:
    """A PNG file of `noise`."""
    file = io.BytesIO()
    Image.fromarray(noise(seed, size, size)).save(file, "PNG")
    return file.getvalue()


def require_seven(data: Dataset) -> None:
    """Images 0 to 3 of the classes 1 0 2 0 for training, 4 to 6 of 0 1 2 for the test, as `png`."""
    assert data.classes == ["0", "1", "2"]
    for split, seeds, targets in (
        (data.train, range(4), [1, 0, 2, 0]),
        (data.test, (4, 5, 6), [0, 1, 2]),
    ):
        assert split.targets.tolist() == targets
        assert np.array_equal(split.images.numpy(), np.stack([noise(n, 6, 6) for n in seeds]))


def ramp(width: int, height: int) -> Image.Image:
    """Grey that rises from black at the left to white at the right."""
    row = np.linspace(0, 255, width).round().astype(np.uint8)
    return Image.fromarray(np.repeat(row[None], height, axis=0))


def write_mixed(root: Path) -> set[str]:
    """train/ and test/ of the classes a and b, whose images show a ramp in every mode; their modes,
    as they are read back.
    """
    modes = set()
    for split, kinds in (("train", MIXED), ("test", MIXED[:3])):
        for name in ("a", "b"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number, (suffix, mode, size) in enumerate(kinds, start=1):
                image = ramp(*size)
                if mode == "I;16":
                    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
                elif mode == "1":
                    image = image.point(lambda value: 255 * (value > 127)).convert("1")
                else:
                    image = (
                        image.convert("RGB").convert(mode)
                        if mode == "CMYK"
                        else (image.convert(mode))
                    )
                file = folder / f"{number:02}{suffix}"
                image.save(file)
                modes.add(Image.open(file).mode)
    for name in ("a", "b"):
        (root / "train" / name / "notes.txt").write_text("passed over")
    return modes


def write_tiny_imagenet(root: Path, classes: int, train: int, val: int, size: int) -> None:
    """Tiny-ImageNet's layout: boxes beside images/, val/ in one folder and its file of classes."""
    names = [f"n{label:08}" for label in range(classes)]
    for label, name in enumerate(names):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{name}_boxes.txt").write_text("")
        for number in range(train):
            pixels = noise(1000 * label + number, size, size)
            Image.fromarray(pixels).save(folder / f"{name}_{number}.JPEG")

    folder = root / "val" / "images"
    folder.mkdir(parents=True)
    lines = []
    for number in range(classes * val):
        Image.fromarray(noise(-number % 9973, size, size)).save(folder / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{names[(-number - 1) % classes]}\t0\t0\t7\t7\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    (root / "test" / "images").mkdir(parents=True)
    Image.fromarray(noise(1, size, size)).save(root / "test" / "images" / "test_0.JPEG")
