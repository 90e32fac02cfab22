"""Any data set as folders of image files: ROOT/train/<class>/* and ROOT/test/<class>/*."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset, Images, shrink
from sdkd_plugin.data.statistics import count_levels, mean_and_std
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import DATASETS

_EXPECTED = "DATASET.ROOT must hold train/<class>/<images> and test/<class>/<images>"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# modes of 8 bits a channel; PIL clips deeper ones to white instead of scaling them
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# what PIL raises for broken files
_DAMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@DATASETS.register("imagefolder")
def imagefolder(cfg: CN) -> Dataset:
    """Decodes every image of DATASET.ROOT once and keeps them in memory.

    Classes are the folders' names, sorted; images are ordered by class, then file name. Names that
    start with a dot and files that end in none of SUFFIXES are passed over. With DATASET.IMAGE_SIZE
    each image is shrunk to a square as it is read; without, all must have one size. Transparency is
    dropped. Mean and std are of the training files' pixels before they are shrunk.
    DATASET.NUM_WORKERS threads decode, or at 0 the calling one.

    Raises:
        UserError: a folder is missing or has no images, train and test differ in classes, a file
            cannot be decoded or is smaller than IMAGE_SIZE, or sizes differ without IMAGE_SIZE.
    """
    root = Path(cfg.DATASET.ROOT)
    classes = _classes(root / "train")
    tested = _classes(root / "test")
    if classes != tested:
        raise UserError(
            f"classes differ: only in {str(root / 'train')!r}: {_listed(classes, tested)}; "
            f"only in {str(root / 'test')!r}: {_listed(tested, classes)}; "
            "both need the same folders"
        )

    size = cfg.DATASET.IMAGE_SIZE
    workers = cfg.DATASET.NUM_WORKERS
    train, levels = _read_split(root / "train", classes, size, workers)
    test, _ = _read_split(root / "test", classes, size, workers)
    mean, std = mean_and_std(levels)
    return Dataset("imagefolder", classes, train, test, mean=mean, std=std)


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"folder {str(folder)!r} is missing; {_EXPECTED}")

    entries = [entry for entry in folder.iterdir() if entry.is_dir()]
    classes = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    if not classes:
        raise UserError(f"folder {str(folder)!r} has no class folders; {_EXPECTED}")
    return classes


def _listed(names: list[str], others: list[str]) -> str:
    return ", ".join(sorted(set(names) - set(others))) or "none"


def _files(folder: Path) -> list[Path]:
    images = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    files = sorted(file for file in images if not file.name.startswith("."))
    if not files:
        raise UserError(
            f"class folder {str(folder)!r} has no images; "
            f"each needs one that ends in {', '.join(SUFFIXES)}"
        )
    return files


def _read_split(folder: Path, classes: list[str], size: int, workers: int) -> tuple[Images, Tensor]:
    """The split, and how often its files have each value of a pixel: [3, 256]."""
    per_class = [_files(folder / name) for name in classes]
    files = [file for group in per_class for file in group]
    decoded = _decode_all(files, partial(_decode, size=size), workers, f"decoding {folder.name}")

    images = [image for image, _ in decoded]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise UserError(
                f"images differ in size: {str(files[0])!r} is {_size(images[0])}, "
                f"{str(file)!r} is {_size(image)}; set DATASET.IMAGE_SIZE"
            )

    targets = torch.repeat_interleave(torch.tensor([len(group) for group in per_class]))
    total = torch.zeros(3, 256, dtype=torch.int64)
    for _, levels in decoded:
        total += levels
    return Images(torch.stack(images), targets), total


def _decode_all(
    files: list[Path],
    decode: Callable[[Path], tuple[Tensor, Tensor]],
    workers: int,
    title: str,
) -> list[tuple[Tensor, Tensor]]:
    # None: no bar where there is no terminal
    progress = partial(tqdm, total=len(files), desc=title, disable=None)
    if workers == 0:
        return list(progress(map(decode, files)))

    # threads do, since PIL decodes outside the interpreter's lock
    with ThreadPoolExecutor(workers) as pool:
        return list(progress(pool.map(decode, files)))


def _decode(file: Path, size: int) -> tuple[Tensor, Tensor]:
    """[H, W, 3] uint8, shrunk to size x size unless that is 0; and its levels before, [3, 256]."""
    try:
        with Image.open(file) as stored:
            mode = stored.mode
            pixels = np.array(stored.convert("RGB"))
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"image {str(file)!r} cannot be decoded: {reason}; repair or remove the file"
        ) from error
    if mode not in _MODES:
        raise UserError(
            f"image {str(file)!r} has mode {mode}; "
            f"allowed: 8 bits a channel ({', '.join(_MODES)}); convert it first"
        )

    images = torch.from_numpy(pixels)[None]  # [1, H, W, 3]
    levels = count_levels(images)
    if size:
        images = shrink(images, size, f"image {str(file)!r}")
    return images[0], levels


def _size(image: Tensor) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
