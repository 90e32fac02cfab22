"""torchvision's classification data sets by the names of their classes, such as
"torchvision:FashionMNIST".
"""

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from sdkd_plugin.data.cifar100 import MEAN, STD, is_cifar100
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.decode import to_rgb, undecodable
from sdkd_plugin.data.images import Images
from sdkd_plugin.data.pictures import Picture
from sdkd_plugin.data.reading import Split
from sdkd_plugin.data.source import Source, file_stamps, pixel_digest
from sdkd_plugin.data.splits import load_split, training_constants
from sdkd_plugin.data.statistics import count_levels
from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.registry import DATASETS, Entry


@dataclass(frozen=True)
class Kind:
    """How a class of torchvision is asked for its two splits.

    Args:
        train, test: its arguments for each.
        flips: whether a mirrored image still belongs to its class.
    """

    train: dict[str, Any] = field(default_factory=lambda: {"split": "train"})
    test: dict[str, Any] = field(default_factory=lambda: {"split": "test"})
    flips: bool = True


_FLAG: dict[str, Any] = {"train": {"train": True}, "test": {"train": False}}
# Digits, letters, syllables and words read otherwise in a mirror, and so do most traffic signs.
KINDS = {
    "CIFAR10": Kind(**_FLAG),
    "CIFAR100": Kind(**_FLAG),
    "Country211": Kind(),
    "DTD": Kind(),
    "FER2013": Kind(),
    "FGVCAircraft": Kind(train={"split": "trainval"}),
    "FashionMNIST": Kind(**_FLAG),
    "Flowers102": Kind(),
    "Food101": Kind(),
    "GTSRB": Kind(flips=False),
    "ImageNet": Kind(test={"split": "val"}),
    "Imagenette": Kind(test={"split": "val"}),
    "KMNIST": Kind(**_FLAG, flips=False),
    "MNIST": Kind(**_FLAG, flips=False),
    "OxfordIIITPet": Kind(train={"split": "trainval"}),
    "PCAM": Kind(),
    "RenderedSST2": Kind(flips=False),
    "STL10": Kind(),
    "SVHN": Kind(flips=False),
    "StanfordCars": Kind(),
    "USPS": Kind(**_FLAG, flips=False),
}
_GREY = ("1", "L", "I", "I;16")


class TorchvisionSource(Source):
    """One split of a class of torchvision that decodes each image when it is asked for.

    Args:
        images: the class's own object.
    """

    def __init__(self, title: str, images: Any):
        super().__init__(title, labels_of(title, images))
        self.images = images
        self.files = files_of(images)

    def name(self, number: int) -> str:
        if self.files:
            return str(self.files[number])
        return f"{number} of {self.title}"

    def stamp(self) -> str:
        if self.files:
            return "\n".join(file_stamps(self.files))
        content = hashlib.sha256()
        for number in range(len(self)):  # no files of their own tell whether they changed
            content.update(self.read(number).digest)
        return content.hexdigest()

    def read(self, number: int) -> Picture:
        try:
            image, _ = self.images[number]
            pixels = to_rgb(image)
        except Exception as error:  # damaged bytes make decoders fail in every way there is
            raise undecodable(self.name(number), error) from error
        return Picture(pixels, pixel_digest(pixels))


@DATASETS.source("torchvision")
def torchvision_entry(name: str) -> Entry:
    """A class of torchvision.datasets. Raises UserError for a name that is not in KINDS."""
    if name not in KINDS:
        raise unknown("data set", name, KINDS, "DATASET.TYPE torchvision:NAME")

    def build(cfg: CN) -> Dataset:
        return torchvision_dataset(name, cfg)

    return Entry(f"torchvision:{name}", build)


def torchvision_dataset(name: str, cfg: CN) -> Dataset:
    """Reads a data set of torchvision from DATASET.ROOT, in the layout its class keeps there; it is
    downloaded first, if DATASET.DOWNLOAD allows it.

    Grey images become three equal channels. Classes have torchvision's names, or their numbers
    where it has none.

    Raises:
        UserError: files missing or altered, a download that failed, a package that the class needs,
            or what `load_split` says of images.
    """
    kind = KINDS[name]
    train, test = _made(name, kind.train, cfg), _made(name, kind.test, cfg)
    if _is_grey(train):
        print(f"note: the images of {name} are grey; each becomes three equal channels")

    trained, evaluated = (
        _split(f"{name} {title}", images, cfg)
        for title, images in (("train", train), ("test", test))
    )
    constants: tuple[tuple[float, ...], tuple[float, ...]] = (MEAN, STD)
    if not is_cifar100(trained.images, evaluated.images):
        constants = training_constants(trained, cfg)
    mean, std = constants
    count = 1 + max(int(split.images.targets.max()) for split in (trained, evaluated))
    return Dataset(
        f"torchvision:{name}",
        classes_of(train, count),
        trained.images,
        evaluated.images,
        flips=kind.flips,
        mean=mean,
        std=std,
        broken=(*trained.broken, *evaluated.broken),
    )


def _is_grey(images: Any) -> bool:
    """Whether the first image is; of one that cannot be decoded whoever reads them all tells."""
    try:
        return images[0][0].mode in _GREY
    except Exception:  # as above
        return False


def _split(title: str, images: Any, cfg: CN) -> Split:
    """One split of a class's own object."""
    if not len(images):
        raise UserError(f"{title} has no images; check DATASET.ROOT {cfg.DATASET.ROOT!r}")
    stored = array_of(images)
    if stored is None:
        return load_split(TorchvisionSource(title, images), cfg)
    targets = torch.tensor(labels_of(title, images), dtype=torch.int64)
    if len(targets) != len(stored):
        raise UserError(
            f"{title} has {len(stored)} images and {len(targets)} labels; its files in "
            f"DATASET.ROOT {cfg.DATASET.ROOT!r} do not belong together"
        )
    return Split(Images(stored, targets), count_levels(stored), ())


def array_of(images: Any) -> Tensor | None:
    """[N, H, W, 3] uint8 of a class that holds its images as one array; None of another."""
    held = getattr(images, "data", None)
    if not isinstance(held, np.ndarray | Tensor):
        return None
    array = torch.as_tensor(held)
    if array.dim() == 3:  # grey
        array = array[..., None].expand(-1, -1, -1, 3)
    elif array.shape[3] != 3:
        array = array.permute(0, 2, 3, 1)
    assert array.dtype == torch.uint8 and array.shape[3] == 3
    return array.contiguous()


def _made(name: str, arguments: dict[str, Any], cfg: CN) -> Any:
    from torchvision import datasets  # slow to import, and every start imports this file

    root, download = cfg.DATASET.ROOT, cfg.DATASET.DOWNLOAD
    build = getattr(datasets, name)
    offers = "download" in inspect.signature(build).parameters
    try:
        return build(root, **arguments, **({"download": download} if offers else {}))
    except ImportError as error:
        raise UserError(
            f"DATASET.TYPE torchvision:{name} needs the package {error.name}: pip install "
            f"{error.name}"
        ) from error
    except Exception as error:  # what is damaged makes its readers fail in every way there is
        raise UserError(_advice(name, root, download, offers, error)) from error


def _advice(name: str, root: str, download: bool, offers: bool, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if not offers:
        return (
            f"torchvision:{name} cannot be read from {root!r}, and torchvision downloads none: "
            f"{reason}; put its files there as torchvision's documentation says"
        )
    if not download:
        return (
            f"torchvision:{name} cannot be read from {root!r}: {reason}; set DATASET.DOWNLOAD "
            "True, or DATASET.ROOT to the folder that holds it"
        )
    return (
        f"torchvision:{name} could not be read from {root!r} nor downloaded to it: {reason}; put "
        "its files there yourself, or point DATASET.ROOT elsewhere"
    )


def labels_of(title: str, images: Any) -> list[int]:
    """The class of every image, from where the class keeps it."""
    for name in ("targets", "labels", "_labels"):
        if getattr(images, name, None) is not None:
            found: Sequence[Any] = getattr(images, name)
            break
    else:
        samples = getattr(images, "_samples", None) or images
        found = [samples[number][1] for number in range(len(samples))]

    try:
        return [int(label) for label in found]
    except TypeError as error:
        raise UserError(
            f"{title} has images without a label; use a copy of the data that has them "
            "(DATASET.ROOT)"
        ) from error


def files_of(images: Any) -> list[Path]:
    """The files of every image; none where they are not files of their own."""
    for name in ("_image_files", "_images", "imgs", "_samples"):
        found = getattr(images, name, None) or [None]
        paths = [each[0] if isinstance(each, tuple) else each for each in found]
        if isinstance(paths[0], str | Path):
            return [Path(path) for path in paths]
    return []


def classes_of(images: Any, count: int) -> list[str]:
    """The classes' names; their numbers where torchvision has none, or not as many."""
    names = list(getattr(images, "classes", []))
    if len(names) < count:
        return [str(label) for label in range(count)]
    return [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
