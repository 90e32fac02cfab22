"""Images in parquet files as Hugging Face publishes them: a row is an image and a class."""

import json
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.decode import undecodable
from sdkd_plugin.data.source import EncodedSource, file_stamps, first_files
from sdkd_plugin.data.splits import load_both
from sdkd_plugin.defaults import MOST_CLASSES
from sdkd_plugin.errors import UserError, shown
from sdkd_plugin.files import require_regular
from sdkd_plugin.printable import printable
from sdkd_plugin.registry import DATASETS

_EXPECTED = (
    "DATASET.ROOT must hold train*.parquet and test*, validation* or val*.parquet, or data/ with "
    "train-*.parquet and so on, whose columns are image or img and label or fine_label"
)
# what Hugging Face's data sets call columns, and splits beside train
IMAGE = ("image", "img")
LABEL = ("label", "fine_label")
EVALUATED = ("test", "validation", "val")
_PATTERNS = ("{}*.parquet", "data/{}-*.parquet")
_HELD = 2  # row groups of a split that stay in memory: threads that decode cross from one to one


@dataclass(frozen=True)
class Group:
    """Rows that a file can only be read together.

    Args:
        number: in the file.
        first: its first row in the file.
        rows: how many.
        column: that holds its images.
    """

    file: Path
    number: int
    first: int
    rows: int
    column: str


@dataclass(frozen=True)
class Shard:
    """One file.

    Args:
        targets: class numbers, one per row.
        names: of its classes; empty: it tells none.
    """

    file: Path
    groups: list[Group]
    targets: list[int]
    names: list[str]


class ParquetSource(EncodedSource):
    """Images that are read out of parquet files, a row group at a time."""

    def __init__(self, title: str, shards: list[Shard]):
        super().__init__(title, [target for shard in shards for target in shard.targets])
        self.groups = [group for shard in shards for group in shard.groups]
        self.starts = [0, *accumulate(group.rows for group in self.groups)]
        self._images = lru_cache(_HELD)(_images)
        self._lock = threading.Lock()  # or all threads would read the same group

    def name(self, number: int) -> str:
        group, offset = self._place(number)
        return f"{group.file} row {group.first + offset}"

    def stamp(self) -> str:
        return "\n".join(file_stamps(sorted({group.file for group in self.groups})))

    def _place(self, number: int) -> tuple[Group, int]:
        at = bisect_right(self.starts, number) - 1
        return self.groups[at], number - self.starts[at]

    def content(self, number: int) -> bytes:
        group, offset = self._place(number)
        with self._lock:
            images = self._images(group)
        content = images[offset].as_py()
        if content is None:
            raise undecodable(self.name(number), ValueError("it has no bytes"))
        return content


@DATASETS.register("parquet")
def parquet(cfg: CN) -> Dataset:
    """Decodes the images of DATASET.ROOT's parquet files: train*, and the first of test*,
    validation* and val* that is there.

    Files are taken in the order of their names, rows, which count from 0, in the order of the file.
    An image is bytes, or a struct of which `bytes` are read, never `path`. Classes have the names
    that Hugging Face's metadata give them, or are called by their numbers, up to DATASET.CLASSES or
    the largest of the training images. With DATASET.DECODE always an image costs the reading of its
    row group.

    Raises:
        UserError: pyarrow is not installed, no such files, one that is damaged or lacks a column, a
            label that is no class number, names that differ between files, or what `load_both`
            says of images.
    """
    root = Path(cfg.DATASET.ROOT)
    trained, tested = (
        _shards(first_files(root, names, _PATTERNS, _EXPECTED)) for names in (["train"], EVALUATED)
    )
    train, test = ParquetSource("train", trained), ParquetSource("test", tested)
    names = _common_names([*trained, *tested], root)
    origin = "the files' names of classes"
    if not names:
        origin = "the training images or DATASET.CLASSES"
        names = [str(label) for label in range(cfg.DATASET.CLASSES or max(train.targets) + 1)]
    for source in (train, test):
        source.require_targets(len(names), root, origin)
    return load_both("parquet", names, train, test, cfg)


def _arrow() -> Any:
    try:
        import pyarrow.compute
        import pyarrow.parquet  # optional, and slow to import
    except ImportError as error:
        raise UserError(
            "DATASET.TYPE parquet needs pyarrow; "
            "install it with: pip install 'sdkd-plugin[parquet]'"
        ) from error
    return pyarrow


def _shards(files: list[Path]) -> list[Shard]:
    shards = [_shard(file) for file in files]
    if not any(shard.targets for shard in shards):
        raise UserError(f"{str(files[0])!r} holds no images; {_EXPECTED}")
    return shards


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A pyarrow.parquet.ParquetFile; raises UserError where it cannot be read, now or later."""
    arrow = _arrow()
    try:
        require_regular(file)
        with arrow.parquet.ParquetFile(file) as stored:
            yield stored
    except (OSError, UnicodeDecodeError, arrow.ArrowException) as error:
        reason = shown(printable(" ".join(str(error).split())), str)
        raise UserError(
            f"{str(file)!r} cannot be read as a parquet file: {reason}; {_EXPECTED}"
        ) from error


def _shard(file: Path) -> Shard:
    """What a file says, but for its images."""
    with _opened(file) as stored:
        schema = stored.schema_arrow
        image = _column(file, schema, IMAGE, _holds_images, "bytes, or a struct with bytes")
        whole = _arrow().types.is_integer
        label = _column(file, schema, LABEL, whole, "whole numbers")
        targets = stored.read(columns=[label]).column(0).to_pylist()
        rows = [stored.metadata.row_group(n).num_rows for n in range(stored.num_row_groups)]

    for row, target in enumerate(targets):
        if target is None or not 0 <= target < MOST_CLASSES:
            raise UserError(
                f"{label} of row {row} of {str(file)!r} is {target}; allowed: a class number, 0 to "
                f"{MOST_CLASSES - 1}; take files of images without labels out of DATASET.ROOT"
            )
    firsts = accumulate(rows, initial=0)
    groups = [Group(file, n, next(firsts), count, image) for n, count in enumerate(rows)]
    return Shard(file, groups, targets, _names(file, schema, label))


def _holds_images(kind: Any) -> bool:
    types = _arrow().types
    if types.is_struct(kind):
        if kind.get_field_index("bytes") < 0:
            return False
        kind = kind.field("bytes").type
    return types.is_binary(kind) or types.is_large_binary(kind)


def _column(
    file: Path, schema: Any, names: Sequence[str], fits: Callable[[Any], bool], allowed: str
) -> str:
    """The first of these columns that is there."""
    held = schema.names
    for name in names:
        if name in held:
            kind = schema.types[held.index(name)]
            if not fits(kind):
                said = shown(printable(str(kind)), str)
                raise UserError(f"column {name} of {str(file)!r} is {said}; allowed: {allowed}")
            return name
    there = shown(", ".join(map(printable, held)), str)
    raise UserError(
        f"{str(file)!r} has no column {' or '.join(names)}, it has: {there or 'none'}; {_EXPECTED}"
    )


def _names(file: Path, schema: Any, label: str) -> list[str]:
    """The classes' names, where Hugging Face's metadata tell them."""
    stored = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        held = json.loads(stored)
        names = held.get("info", held).get("features", {}).get(label, {}).get("names") or []
        good = isinstance(names, list) and all(isinstance(name, str) for name in names)
    except (ValueError, RecursionError, AttributeError):
        good = False
    if not good:
        raise UserError(
            f"the metadata 'huggingface' of {str(file)!r} are {shown(stored)}; wanted: json with "
            f"info, features, {label} and names, a list of text"
        )
    return names


def _common_names(shards: list[Shard], root: Path) -> list[str]:
    """The names that all files tell that tell any."""
    told = [shard for shard in shards if shard.names]
    for shard in told:
        if shard.names != told[0].names:
            raise UserError(
                f"files in {str(root)!r} name their classes differently: {told[0].file.name} and "
                f"{shard.file.name}; all need the same names in the same order"
            )
    return told[0].names if told else []


def _images(group: Group) -> Any:
    """[rows] bytes or null of a group."""
    with _opened(group.file) as stored:
        column = stored.read_row_group(group.number, columns=[group.column]).column(0)
    arrow = _arrow()
    if arrow.types.is_struct(column.type):
        return arrow.compute.struct_field(column, "bytes")
    return column
