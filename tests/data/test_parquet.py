"""Parquet files of images and classes, as Hugging Face publishes them."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.folders import noise, png, require_seven

from sdkd_plugin.__main__ import main
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError

_NO_PIPES = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
_PIPE = pytest.param("pipe", marks=_NO_PIPES)
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hugging_face(names: object, label: str = "label") -> dict[str, str]:
    features = {"image": {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def write(
    path: Path,
    images: list,
    labels: list,
    metadata: dict | None = None,
    columns: tuple[str, str] = ("image", "label"),
    kinds: tuple[pa.DataType, pa.DataType] = (STRUCT, pa.int64()),
    rows: int = 2,
) -> None:
    """A file whose row groups have this many rows."""
    path.parent.mkdir(exist_ok=True)
    if pa.types.is_struct(kinds[0]):
        images = [{"bytes": image, "path": "passed over"} for image in images]
    schema = pa.schema(list(zip(columns, kinds, strict=True)), metadata)
    table = pa.table([pa.array(images, kinds[0]), pa.array(labels, kinds[1])], schema=schema)
    pq.write_table(table, path, row_group_size=rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images 0 to 3 of the classes 1 0 2 0 in two training files, 4 to 6 of 0 1 2 in a test
    file.
    """
    write(tmp_path / "train-00001-of-00002.parquet", [png(3)], [0])
    write(tmp_path / "train-00000-of-00002.parquet", [png(0), png(1), png(2)], [1, 0, 2])
    write(tmp_path / "test.parquet", [png(4), png(5), png(6)], [0, 1, 2])
    return tmp_path


@pytest.fixture
def load(root: Path, make_config: Callable) -> Callable[..., Dataset]:
    def loaded(*pairs: object) -> Dataset:
        return load_dataset(
            make_config("DATASET.TYPE", "parquet", "DATASET.ROOT", str(root), *pairs)
        )

    return loaded


def test_rows_are_those_of_the_files_in_their_order(load: Callable) -> None:
    require_seven(load())


@pytest.mark.parametrize("name", ["validation-0.parquet", "val.parquet", "data/test-0.parquet"])
def test_other_places_of_the_evaluated_images(load: Callable, root: Path, name: str) -> None:
    expected = load().fingerprint
    (root / "data").mkdir()
    (root / "test.parquet").rename(root / name)
    assert load().fingerprint == expected


def test_test_goes_before_validation(load: Callable, root: Path) -> None:
    expected = load().fingerprint
    write(root / "validation.parquet", [png(9)], [0])
    assert load().fingerprint == expected


@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()], ids=str)
@pytest.mark.parametrize("columns", [("img", "fine_label"), ("image", "label")])
def test_columns_of_other_names_and_kinds(
    load: Callable, root: Path, columns: tuple[str, str], kind: pa.DataType
) -> None:
    expected = load().fingerprint
    own = (None, columns, (kind, pa.uint8()))
    write(root / "train-00000-of-00002.parquet", [png(0), png(1), png(2)], [1, 0, 2], *own)
    assert load().fingerprint == expected


def test_classes_have_the_names_of_the_metadata(load: Callable, root: Path) -> None:
    told = hugging_face(["ant", "bee", "cat", "dog"])
    write(root / "test.parquet", [png(4), png(5)], [0, 3], told)
    assert load().classes == ["ant", "bee", "cat", "dog"]

    write(root / "test.parquet", [png(4), png(5)], [0, 4], told)
    with pytest.raises(UserError, match="have the class 4; allowed: 0 to 3, from the files' names"):
        load()

    write(root / "train-00001-of-00002.parquet", [png(3)], [0], hugging_face(["bee", "ant"]))
    with pytest.raises(UserError, match="differently: train-00001-of-00002.parquet and test.parq"):
        load()


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"huggingface": "{"}, r"'huggingface' of '.*test.parquet' are b'{'; wanted: json with"),
        ({"huggingface": "[]"}, "wanted: json with info, features, label and names"),
        (hugging_face("cats"), "names, a list of text"),
        (hugging_face([1, 2, 3]), "names, a list of text"),
    ],
)
def test_malformed_metadata(load: Callable, root: Path, metadata: dict, message: str) -> None:
    write(root / "test.parquet", [png(4)], [0], metadata)
    with pytest.raises(UserError, match=message):
        load()


def test_metadata_without_names(load: Callable, root: Path) -> None:
    write(root / "test.parquet", [png(4)], [0], {"huggingface": '{"info": {"features": {}}}'})
    assert load().classes == ["0", "1", "2"]


@pytest.mark.parametrize("decode", ["once", "always"])
def test_they_are_cached_and_resized_as_files_are(load: Callable, root: Path, decode: str) -> None:
    resized = ("DATASET.TRANSFORM", "imagenet", "DATASET.IMAGE_SIZE", 4)
    expected = load(*resized)
    kept = ("DATASET.DECODE", decode, "DATASET.CACHE", str(root / "cache"))
    for _ in range(2):
        found = load(*resized, *kept)
        assert found.fingerprint == expected.fingerprint and found.mean == expected.mean
        for n in (3, 0, 2, 1):
            assert np.array_equal(found.train.pixels(n), expected.train.pixels(n))
    os.utime(root / "train-00000-of-00002.parquet", ns=(1, 1))
    before = len(list((root / "cache").iterdir()))
    assert load(*resized, *kept).fingerprint == expected.fingerprint
    assert len(list((root / "cache").iterdir())) > before


def test_many_row_groups_are_read_by_many_threads_in_order(load: Callable, root: Path) -> None:
    images = [png(seed) for seed in range(50)]
    write(root / "train-00000-of-00002.parquet", images, [n % 3 for n in range(50)], rows=3)
    found = load("DATASET.NUM_WORKERS", 4).train
    expected = np.stack([noise(seed, 6, 6) for seed in (*range(50), 3)])
    assert np.array_equal(found.images.numpy(), expected)


@pytest.mark.parametrize("content", [b"no image", None, b""])
def test_a_broken_image_is_named_or_left_out(
    load: Callable, root: Path, content: bytes | None
) -> None:
    write(root / "train-00000-of-00002.parquet", [png(0), png(1), png(2), content], [1, 0, 2, 0])
    with pytest.raises(UserError, match="train-00000-of-00002.parquet row 3' cannot be decoded: "):
        load()
    data = load("DATASET.BROKEN", "skip")
    assert data.train.targets.tolist() == [1, 0, 2, 0] and len(data.broken) == 1


@pytest.mark.parametrize(
    "columns, kinds, labels, message",
    [
        (
            ("photo", "label"),
            (STRUCT, pa.int64()),
            [0],
            "has no column image or img, it has: photo",
        ),
        (("image", "coarse_label"), (STRUCT, pa.int64()), [0], "no column label or fine_label, it"),
        (("image", "label"), (pa.string(), pa.int64()), [0], "column image of .* is string; allow"),
        (
            ("image", "label"),
            (STRUCT, pa.float64()),
            [0.5],
            "column label of .* is double; allowed",
        ),
        (("image", "label"), (STRUCT, pa.string()), ["a"], "is string; allowed: whole numbers"),
        (
            ("image", "label"),
            (STRUCT, pa.int64()),
            [None],
            "label of row 0 of .*test.* is None; al",
        ),
        (
            ("image", "label"),
            (STRUCT, pa.int64()),
            [-1],
            "is -1; allowed: a class number, 0 to 999",
        ),
        (("image", "label"), (STRUCT, pa.int64()), [10**6], "is 1000000; allowed: a class number"),
        (("image", "label"), (STRUCT, pa.int64()), [], "test.parquet' holds no images; DATASET.R"),
        (("image", "label"), (pa.struct([("path", pa.string())]), pa.int64()), [0], "is struct<pa"),
    ],
)
def test_a_wrong_column_or_label_is_named(
    load: Callable, root: Path, columns: tuple, kinds: tuple, labels: list, message: str
) -> None:
    image = "a.png" if pa.types.is_string(kinds[0]) else png(0)
    write(root / "test.parquet", [image] * len(labels), labels, None, columns, kinds)
    with pytest.raises(UserError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_class_that_no_training_image_has(load: Callable, root: Path) -> None:
    write(root / "test.parquet", [png(4)], [7])
    with pytest.raises(UserError, match="test images in .* have the class 7; allowed: 0 to 2"):
        load()
    assert load("DATASET.CLASSES", 8).num_classes == 8


def test_an_image_without_bytes_is_said_to_have_none(load: Callable, root: Path) -> None:
    write(root / "test.parquet", [png(4), None], [0, 1])
    for pairs in ((), ("DATASET.TRANSFORM", "imagenet", "DATASET.DECODE", "always")):
        with pytest.raises(UserError, match="test.parquet row 1' .*: it has no bytes"):
            assert load(*pairs).fingerprint


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_that_is_missing(load: Callable, root: Path, split: str) -> None:
    for file in root.glob(f"{split}*.parquet"):
        file.unlink()
    with pytest.raises(UserError, match=rf"has no {split}\*.parquet.*DATASET.ROOT must hold"):
        load()


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "pages", _PIPE])
def test_a_file_that_is_no_parquet_is_one_line(load: Callable, root: Path, damage: str) -> None:
    file = root / "train-00000-of-00002.parquet"
    content = file.read_bytes()
    if damage == "pages":  # only the footer is whole
        file.write_bytes(b"\xff" * (len(content) // 2) + content[len(content) // 2 :])
    elif damage == "pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        file.write_bytes({"cut": content[:-10], "text": b"no parquet", "empty": b""}[damage])
    with pytest.raises(UserError, match="parquet' cannot be read as a parquet file: ") as caught:
        load()
    assert "\n" not in str(caught.value)


def test_without_pyarrow(load: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"needs pyarrow; .*pip install 'sdkd-plugin\[parquet\]'"):
        load()


def test_a_student_takes_two_steps(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    file = Path(__file__).resolve().parents[2] / "configs/cifar100/vanilla/resnet8.yaml"
    words = [
        *("DATASET.TYPE", "parquet", "DATASET.ROOT", str(root), "SOLVER.BATCH_SIZE", "2"),
        *("SOLVER.EPOCHS", "1", "SOLVER.SCHEDULE_EPOCHS", "240"),
    ]
    assert main(["train", "--cfg", str(file), *words]) == 0
    (result,) = Path("output").rglob("result.json")
    assert json.loads(result.read_text())["train_images"] == 4
    (student,) = Path("output").rglob("student_latest")
    assert torch.load(student, weights_only=True)["data"]["classes"] == ["0", "1", "2"]


def test_a_folder_that_is_missing(load: Callable, root: Path) -> None:
    shutil.rmtree(root)
    with pytest.raises(UserError, match="folder '.*' is missing; DATASET.ROOT must hold train"):
        load()
