"""A picture of training images as a network sees them, augmented, before they are normalised."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from yacs.config import CfgNode as CN

from sdkd_plugin.data.batches import TrainBatches
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_bytes

MOST = 64  # images of a sheet
TILE = 96  # pixels that a small image is enlarged to, at least
CAPTION = 14  # pixels of the line below it that names its class
GAP = 4  # pixels
_LETTER = 6  # pixels of a letter of the caption, about


def write_sheet(dataset: Dataset, cfg: CN, path: Path) -> int:
    """Writes the first images of epoch 1, each above the name of its class; returns how many.

    Args:
        cfg: as of the run whose images these are; any batch size.
        path: of a PNG file.
    Raises:
        UserError: the file cannot be written.
    """
    count = min(MOST, len(dataset.train))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.BATCH_SIZE = count
    batch = next(iter(TrainBatches(dataset, cfg, "cpu").epoch(1)))
    images = as_seen(batch.image, dataset)
    names = [dataset.classes[label] for label in batch.target.tolist()]

    file = io.BytesIO()
    draw_sheet(images, names).save(file, "PNG")
    write_bytes(path, file.getvalue())
    return count


def require_folder(path: Path) -> None:
    """Raises UserError where a sheet cannot be written: that takes long to be known later."""
    if not path.parent.is_dir():
        raise UserError(f"--sheet is {str(path)!r}, but there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise UserError(f"--sheet is {str(path)!r}, which is a folder; name a file")


def as_seen(image: Tensor, dataset: Dataset) -> np.ndarray:
    """[N, H, W, 3] uint8 of normalised images [N, 3, H, W]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
    pixels = (255 * (image * std + mean)).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()


def draw_sheet(images: np.ndarray, names: list[str]) -> Image.Image:
    """The images in rows of a square, enlarged by whole pixels where they are small.

    Args:
        images: [N, H, W, 3] uint8.
        names: of their classes.
    """
    factor = max(1, TILE // images.shape[1])
    images = images.repeat(factor, 1).repeat(factor, 2)  # [N, side, side, 3]
    side = images.shape[1]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height = side + CAPTION + GAP
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, rows * height + GAP), "white")

    draw = ImageDraw.Draw(sheet)
    for number, (pixels, name) in enumerate(zip(images, names, strict=True)):
        left = GAP + number % columns * (side + GAP)
        top = GAP + number // columns * height
        sheet.paste(Image.fromarray(pixels), (left, top))
        text = name.encode("ascii", "replace").decode()[: side // _LETTER]
        draw.text((left, top + side + 1), text, fill="black")
    return sheet
