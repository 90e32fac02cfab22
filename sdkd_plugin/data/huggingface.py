"""A folder that Hugging Face's package `datasets` wrote or can read: columns of images and of
classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.decode import read_content, undecodable
from sdkd_plugin.data.parquet import EVALUATED, IMAGE, LABEL
from sdkd_plugin.data.source import EncodedSource, file_stamps
from sdkd_plugin.data.splits import load_both
from sdkd_plugin.errors import UserError, shown
from sdkd_plugin.printable import printable
from sdkd_plugin.registry import DATASETS

_EXPECTED = (
    "DATASET.ROOT must be a folder that DatasetDict.save_to_disk wrote or load_dataset reads, with "
    f"the splits train and {' or '.join(EVALUATED)}"
)
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes, of splits and of one


class TableSource(EncodedSource):
    """Images in a column of a table, which stays on the disk.

    Args:
        split: what messages call the table.
        images: [N] structs of `bytes` and, where these are null, the `path` of a file.
        files: that hold the table.
    """

    def __init__(
        self, title: str, split: str, targets: Sequence[int], images: Any, files: list[Path]
    ):
        super().__init__(title, targets)
        self.split = split
        self.images = images
        self.files = files

    def name(self, number: int) -> str:
        return f"{self.split} row {number}"

    def stamp(self) -> str:
        return "\n".join(file_stamps(sorted({*self.files, *self._outside()})))

    def content(self, number: int) -> bytes:
        held = self.images[number].as_py() or {}
        if held.get("bytes") is not None:
            return held["bytes"]
        if not held.get("path"):
            raise undecodable(self.name(number), ValueError("it has no bytes"))
        return read_content(Path(held["path"]))

    def _outside(self) -> list[Path]:
        """The files of images that the table has no bytes of."""
        from pyarrow.compute import is_null, struct_field  # slow to import

        without = self.images.filter(is_null(struct_field(self.images, "bytes")))
        return [Path(path) for path in struct_field(without, "path").to_pylist() if path]


@DATASETS.register("huggingface")
def huggingface(cfg: CN) -> Dataset:
    """Decodes the images of DATASET.ROOT, a folder of Hugging Face's `datasets`: of its split
    train, and the first of test, validation and val that is there.

    A folder that `save_to_disk` wrote is read where it lies; any other is handed to `load_dataset`,
    which keeps a table of its own in its cache. The image is the only column of the feature Image,
    the class the only one of ClassLabel, which names the classes; of several, those that the public
    data sets call so: image or img, label or fine_label. Rows count from 0.

    Raises:
        UserError: datasets is not installed, no folder that it can read, splits or columns that are
            missing or ambiguous, an image without a class, splits that name their classes
            differently, or what `load_both` says of images.
    """
    root = Path(cfg.DATASET.ROOT)
    held = _splits(root)
    evaluated = next((name for name in EVALUATED if name in held), None)
    if "train" not in held or evaluated is None:
        there = shown(", ".join(map(printable, held)), str)
        raise UserError(f"{str(root)!r} has the splits {there}; {_EXPECTED}")

    classes, train = _source("train", held["train"], f"{root} train")
    tested, test = _source("test", held[evaluated], f"{root} {evaluated}")
    if classes != tested:
        raise UserError(
            f"train and {evaluated} in {str(root)!r} name their classes differently; both need the "
            "same names in the same order"
        )
    return load_both("huggingface", classes, train, test, cfg)


def _splits(root: Path) -> Any:
    """The splits of a folder by their names."""
    try:  # of a folder that is called datasets, nothing can be imported
        from datasets import DatasetDict, load_dataset, load_from_disk  # optional, slow to import
    except ImportError as error:
        raise UserError(
            "DATASET.TYPE huggingface needs datasets; "
            "install it with: pip install 'sdkd-plugin[huggingface]'"
        ) from error
    if not root.is_dir():  # or load_dataset would look for it on the hub
        raise UserError(f"folder {str(root)!r} is missing; {_EXPECTED}")

    load = load_dataset
    if any((root / name).is_file() for name in _SAVED):
        load = load_from_disk
    try:
        held = load(str(root), keep_in_memory=False)
    except Exception as error:  # what is damaged makes its many readers fail in every way there is
        raise _unreadable(str(root), error) from error

    if not isinstance(held, DatasetDict):
        raise UserError(
            f"{str(root)!r} holds one split; save what its train_test_split gives; {_EXPECTED}"
        )
    return held


def _source(title: str, split: Any, name: str) -> tuple[list[str], TableSource]:
    """The classes and the images of a split.

    Args:
        split: a datasets.Dataset.
        name: of the split, for messages.
    """
    image, label = _column(split, "Image", IMAGE, name), _column(split, "ClassLabel", LABEL, name)
    classes = [str(each) for each in split.features[label].names]
    try:
        table = split.select_columns([image, label]).with_format("arrow")[:]  # maps the files
        table.validate(full=True)  # offsets that lead nowhere would end the process
    except Exception as error:  # as above
        raise _unreadable(name, error) from error
    if not table.num_rows:
        raise UserError(f"{name!r} holds no images; {_EXPECTED}")

    targets = table.column(label).to_pylist()
    for row, target in enumerate(targets):
        if target is None or not 0 <= target < len(classes):
            raise UserError(
                f"{label} of {name!r} row {row} is {target}; allowed: a class number, 0 to "
                f"{len(classes) - 1}; take rows or splits of images without labels out"
            )
    files = [Path(file["filename"]) for file in split.cache_files]
    return classes, TableSource(title, name, targets, table.column(image), files)


def _unreadable(name: str, error: Exception) -> UserError:
    said = str(error.__cause__ or error) or type(error).__name__
    reason = shown(printable(" ".join(said.split())), str)
    return UserError(f"{name!r} cannot be read by datasets: {reason}; {_EXPECTED}")


def _column(split: Any, feature: str, usual: Sequence[str], name: str) -> str:
    """The column of this feature; of several, the first that has a usual name."""
    kinds = {column: type(kind).__name__ for column, kind in split.features.items()}
    found = [column for column, kind in kinds.items() if kind == feature]
    usually = [column for column in usual if column in found]
    if usually or len(found) == 1:
        return (usually or found)[0]

    there = shown(", ".join(f"{printable(c)} ({kind})" for c, kind in kinds.items()), str)
    wanted = f"one of the feature {feature}"
    if found:
        wanted += f", or of several one called {' or '.join(usual)} (rename_column)"
    else:
        wanted += " (cast_column)"
    raise UserError(f"{name!r} has the columns {there or 'none'}; wanted: {wanted}")
