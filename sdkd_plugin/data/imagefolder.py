"""Any data set as folders of image files: ROOT/train/<class>/* and ROOT/test/<class>/* or val/, and
Tiny-ImageNet as it is published.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.decode import SUFFIXES, read_content
from sdkd_plugin.data.source import EncodedSource, file_stamps
from sdkd_plugin.data.splits import load_both
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_text
from sdkd_plugin.printable import printable
from sdkd_plugin.registry import DATASETS

_EXPECTED = "DATASET.ROOT must hold train/<class>/<images> and test/ or val/<class>/<images>"
_ANNOTATIONS = "val_annotations.txt"  # Tiny-ImageNet's: file name, class and a box per line
_INNER = "images"  # beside them, where the images lie that it tells of


class FileSource(EncodedSource):
    """Image files.

    Args:
        files: of each image, in the order of the targets.
    """

    def __init__(self, title: str, files: list[Path], targets: list[int]):
        super().__init__(title, targets)
        self.files = files

    def name(self, number: int) -> str:
        return str(self.files[number])

    def stamp(self) -> str:
        return "\n".join(file_stamps(self.files))

    def content(self, number: int) -> bytes:
        return read_content(self.files[number])


@DATASETS.register("imagefolder")
def imagefolder(cfg: CN) -> Dataset:
    """Decodes every image of DATASET.ROOT once, unless DATASET.DECODE is always.

    Classes are the folders' names, sorted; images are ordered by class, then path. Folders inside a
    class's belong to it, links to folders do not; names that start with a dot and files that end in
    none of SUFFIXES are passed over. The evaluated images are those of test/, or where it has no
    folders of the classes those of val/, for which Tiny-ImageNet has a file instead. With
    DATASET.IMAGE_SIZE each image is shrunk to a square as it is read; without, all must have one
    size, but for DATASET.TRANSFORM imagenet. `decode` says what becomes of grey images and others.
    Mean and std are of the training files' pixels before they are shrunk.

    Raises:
        UserError: a folder is missing or has no images, train and test differ in classes, a file
            cannot be decoded or is smaller than IMAGE_SIZE, sizes differ, or the images are more
            than memory or disk hold.
    """
    root = Path(cfg.DATASET.ROOT)
    classes, train = _folders(root / "train")
    annotations = root / "val" / _ANNOTATIONS
    if annotations.is_file():
        test = _annotated(annotations, classes)
    else:
        evaluated_folder = _evaluated(root, classes)
        tested, test = _folders(evaluated_folder)
        _require_equal(classes, tested, root / "train", evaluated_folder)

    return load_both("imagefolder", classes, train, test, cfg)


def _evaluated(root: Path, classes: list[str]) -> Path:
    """The folder whose images are scored: test/, or val/ where test/ has no folders of these
    classes, as where its images have no labels.
    """
    found = [folder for folder in (root / "test", root / "val") if _class_names(folder)]
    fit = [folder for folder in found if _class_names(folder) == classes]
    chosen = next(iter(fit or found), root / "test")
    if len(found) > 1:
        (other,) = (folder.name for folder in found if folder != chosen)
        print(f"note: {root} has test/ and val/; {chosen.name}/ is evaluated, {other}/ is not used")
    return chosen


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    try:
        entries = [entry for entry in folder.iterdir() if entry.is_dir()]
    except OSError as error:
        raise _unreadable(error) from error
    return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _folders(folder: Path) -> tuple[list[str], FileSource]:
    """The classes of a split and its files."""
    if not folder.is_dir():
        raise UserError(f"folder {str(folder)!r} is missing; {_EXPECTED}")
    classes = _class_names(folder)
    if not classes:
        raise UserError(f"folder {str(folder)!r} has no class folders; {_EXPECTED}")

    per_class = [_files(folder / name) for name in classes]
    files = [file for group in per_class for file in group]
    targets = [label for label, group in enumerate(per_class) for _ in group]
    return classes, FileSource(folder.name, files, targets)


def _files(folder: Path) -> list[Path]:
    files = [Path(file) for file in sorted(_images(folder))]
    if not files:
        raise UserError(
            f"class folder {str(folder)!r} has no images; "
            f"each needs one that ends in {', '.join(SUFFIXES)}"
        )
    return files


def _images(folder: Path) -> Iterator[str]:
    """The image files in a folder and in those inside it."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield os.path.join(place, name)


def _unreadable(error: OSError) -> UserError:
    return UserError(f"folder {error.filename!r} cannot be read: {error.strerror}")


def _annotated(annotations: Path, classes: list[str]) -> FileSource:
    """Tiny-ImageNet's val/: files in one folder, whose classes a file tells."""
    labels = {name: label for label, name in enumerate(classes)}
    found: list[tuple[int, Path]] = []
    for number, line in enumerate(_text(annotations).splitlines(), start=1):
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if label not in labels or not name or Path(name).name != name:
            raise UserError(
                f"line {number} of {annotations} is {printable(line[:80])!r}; wanted: the name of "
                "a file in images/, a tab, and a class that train/ has a folder of"
            )
        found.append((labels[label], annotations.parent / _INNER / name))
    if not found:
        raise UserError(f"{annotations} names no images")

    found.sort()
    return FileSource("val", [file for _, file in found], [label for label, _ in found])


def _text(annotations: Path) -> str:
    try:
        return read_text(annotations)
    except UnicodeDecodeError as error:
        raise UserError(f"{annotations} is no UTF-8: {error}") from error


def _require_equal(classes: list[str], tested: list[str], train: Path, test: Path) -> None:
    if classes != tested:
        raise UserError(
            f"classes differ: only in {str(train)!r}: {_listed(classes, tested)}; "
            f"only in {str(test)!r}: {_listed(tested, classes)}; both need the same folders"
        )


def _listed(names: list[str], others: list[str]) -> str:
    return ", ".join(sorted(set(names) - set(others))) or "none"
