"""CIFAR-100 as its authors publish it, fetched and checked by torchvision."""

import pickle
import tarfile
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset, Images, content_hash
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import DATASETS

# of the 50000 training images at 32x32, as they are published everywhere
MEAN = (0.5071, 0.4867, 0.4408)
STD = (0.2675, 0.2565, 0.2761)
SHAPES = ((50000, 32, 32, 3), (10000, 32, 32, 3))  # of its training and its test images
CONTENT = "123fff178151842b"  # its `content_hash`, whatever file it comes from
_FOLDER = "cifar-100-python"
_ARCHIVE = "cifar-100-python.tar.gz"


@DATASETS.register("cifar100")
def cifar100(cfg: CN) -> Dataset:
    """Reads DATASET.ROOT/cifar-100-python: 50000 + 10000 images of 100 classes.

    Its files must have the published MD5 sums; else they are downloaded, if DATASET.DOWNLOAD
    allows it.

    Raises:
        UserError: files missing or altered with DATASET.DOWNLOAD False, or a download that failed.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    from torchvision.datasets import CIFAR100  # slow to import, and every start imports this file

    root = cfg.DATASET.ROOT
    download = cfg.DATASET.DOWNLOAD
    try:
        train = CIFAR100(root, train=True, download=download)
        test = CIFAR100(root, train=False, download=download)
    except (OSError, RuntimeError, EOFError, tarfile.TarError, pickle.UnpicklingError) as error:
        raise UserError(_advice(root, download, error)) from error

    return Dataset(
        "cifar100",
        train.classes,
        Images(torch.from_numpy(train.data), torch.tensor(train.targets)),
        Images(torch.from_numpy(test.data), torch.tensor(test.targets)),
        mean=MEAN,
        std=STD,
    )


def is_cifar100(train: Images, test: Images) -> bool:
    """Whether these are exactly CIFAR-100's images and labels, in its order."""
    shapes = tuple((len(split), *(split.size or ()), 3) for split in (train, test))
    return shapes == SHAPES and content_hash(train, test) == CONTENT


def _advice(root: str, download: bool, error: Exception) -> str:
    place = Path(root, _FOLDER)
    if not download:
        state = "is not there"
        if place.is_dir():
            state = "is incomplete or altered (MD5 sums differ)"
        return (
            f"CIFAR-100 at {str(place)!r} {state}; "
            f"set DATASET.DOWNLOAD True, or DATASET.ROOT to the folder with {_FOLDER}"
        )

    reason = " ".join(str(error).split())
    return (
        f"CIFAR-100 could not be downloaded to {root!r}: {reason}; "
        f"put {_ARCHIVE} from its authors' page there yourself, "
        "point DATASET.ROOT elsewhere, or use DATASET.TYPE npz"
    )
