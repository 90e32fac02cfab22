"""Images in tar files as webdataset writes them: a sample is an image and a class of one name."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.decode import SUFFIXES, undecodable
from sdkd_plugin.data.source import EncodedSource, file_stamps, first_files
from sdkd_plugin.data.splits import load_both
from sdkd_plugin.defaults import MOST_CLASSES
from sdkd_plugin.errors import UserError
from sdkd_plugin.printable import printable
from sdkd_plugin.registry import DATASETS

_EXPECTED = (
    "DATASET.ROOT must hold train*.tar and test*.tar or val*.tar, whose samples are an image and "
    "a class number, such as 0001.jpg and 0001.cls"
)
_CLASS = ".cls"
_MOST_DIGITS = 20  # bytes of a class number that are read


@dataclass
class Sample:
    """One image of a tar file.

    Args:
        name: of its member.
        start, size: bytes, where its content lies.
        target: class number; -1: not found yet.
    """

    tar: Path
    name: str = ""
    start: int = 0
    size: int = 0
    target: int = -1


class TarSource(EncodedSource):
    """Images that are read out of tar files where they lie, in any order."""

    def __init__(self, title: str, samples: list[Sample]):
        super().__init__(title, [sample.target for sample in samples])
        self.samples = samples

    def name(self, number: int) -> str:
        sample = self.samples[number]
        return f"{sample.tar}:{printable(sample.name)}"

    def stamp(self) -> str:
        return "\n".join(file_stamps(sorted({sample.tar for sample in self.samples})))

    def content(self, number: int) -> bytes:
        sample = self.samples[number]
        try:
            with open(sample.tar, "rb") as file:
                file.seek(sample.start)
                return file.read(sample.size)
        except OSError as error:
            raise undecodable(self.name(number), error) from error


@DATASETS.register("webdataset")
def webdataset(cfg: CN) -> Dataset:
    """Decodes the images of DATASET.ROOT's tar files: train*.tar, and test*.tar or val*.tar.

    Files are taken in the order of their names, samples in the order of the file. A sample is what
    has one name up to the first dot after its last slash: an image that ends in one of SUFFIXES,
    and .cls, its class number in digits, from 0. Other members are passed over. Classes are called
    by their numbers, up to DATASET.CLASSES or the largest of the training images.

    Raises:
        UserError: no such files, one that is compressed or damaged, a sample that lacks its class,
            a class that is no number, or what `load_both` says of images.
    """
    root = Path(cfg.DATASET.ROOT)
    train, test = _source(root, "train"), _source(root, "test", "val")
    count = cfg.DATASET.CLASSES or max(train.targets) + 1
    for source in (train, test):
        source.require_targets(count, root, "the training images or DATASET.CLASSES")
    return load_both("webdataset", [str(label) for label in range(count)], train, test, cfg)


def _source(root: Path, *names: str) -> TarSource:
    """The images of the first name that has any files."""
    return TarSource(names[0], _samples(first_files(root, names, ["{}*.tar"], _EXPECTED)))


def _samples(tars: list[Path]) -> list[Sample]:
    samples = [sample for tar in tars for sample in _samples_of(tar)]
    if not samples:
        raise UserError(f"{str(tars[0])!r} holds no images; {_EXPECTED}")
    return samples


def _samples_of(tar: Path) -> Iterator[Sample]:
    """The samples of one file, of which only the names and the classes are read."""
    found: dict[str, Sample] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                stem, _, _ = base.partition(".")
                suffix = os.path.splitext(base)[1].lower()
                if not member.isfile() or suffix not in (*SUFFIXES, _CLASS):
                    continue
                sample = found.setdefault(f"{folder}/{stem}", Sample(tar))
                if suffix == _CLASS:
                    stored = archive.extractfile(member)
                    assert stored is not None
                    sample.target = _number(stored.read(_MOST_DIGITS), f"{tar}:{member.name}")
                else:
                    sample.name, sample.start = member.name, member.offset_data
                    sample.size = member.size
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{str(tar)!r} cannot be read as a tar file, uncompressed: {reason}; {_EXPECTED}"
        ) from error

    for key, sample in found.items():
        if sample.name and sample.target < 0:
            raise UserError(
                f"sample {printable(key.lstrip('/'))!r} of {str(tar)!r} has no class; {_EXPECTED}"
            )
        if sample.name:
            yield sample


def _number(content: bytes, name: str) -> int:
    text = content.decode("ascii", "replace").strip()
    if not (text.isascii() and text.isdigit() and int(text) < MOST_CLASSES):
        raise UserError(
            f"{printable(name)} is {printable(text)!r}; allowed: a class number, 0 to "
            f"{MOST_CLASSES - 1}"
        )
    return int(text)
