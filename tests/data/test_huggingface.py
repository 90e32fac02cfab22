"""Folders of Hugging Face's package datasets, made by itself."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.folders import noise, png, require_seven

from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError

RESIZED = ("DATASET.TRANSFORM", "imagenet", "DATASET.IMAGE_SIZE", 4)
# the seeds of the images and their classes, as `require_seven` wants them
TRAIN, TEST = {0: 1, 1: 0, 2: 2, 3: 0}, {4: 0, 5: 1, 6: 2}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package, which keeps its tables below this test's folder."""
    datasets = pytest.importorskip("datasets", reason="needs the extra huggingface")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    return datasets


@pytest.fixture
def make(library: ModuleType) -> Callable[..., Any]:
    """make({seed: class, ...}, names=..., columns=...) -> a split of these images."""

    def made(
        classes: dict[int, int | None],
        names: tuple[str, ...] = ("0", "1", "2"),
        columns: tuple[str, str] = ("image", "label"),
    ) -> Any:
        kinds = (library.Image(), library.ClassLabel(names=list(names)))
        return library.Dataset.from_dict(
            {
                columns[0]: [{"bytes": png(seed), "path": None} for seed in classes],
                columns[1]: list(classes.values()),
            },
            library.Features(dict(zip(columns, kinds, strict=True))),
        )

    return made


@pytest.fixture
def save(library: ModuleType, root: Path) -> Callable[..., None]:
    """save(train=..., ...) writes these splits, or save(split) a single one."""

    def saved(single: Any = None, **splits: Any) -> None:
        (single or library.DatasetDict(splits)).save_to_disk(str(root))

    return saved


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def load(root: Path, make_config: Callable) -> Callable[..., Dataset]:
    def loaded(*pairs: object, kind: str = "huggingface") -> Dataset:
        return load_dataset(make_config("DATASET.TYPE", kind, "DATASET.ROOT", str(root), *pairs))

    return loaded


def write_files(root: Path) -> None:
    """The seven images as files in folders of their classes."""
    for split, classes in (("train", TRAIN), ("test", TEST)):
        for seed, label in classes.items():
            file = root / split / str(label) / f"{seed}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(seed))


def test_a_saved_folder(load: Callable, make: Callable, save: Callable) -> None:
    # what was chosen and reordered, and is told to hand out tensors
    shuffled = make({3: 0, 9: 1, 2: 2, 1: 0, 0: 1}).select([4, 3, 2, 0]).with_format("torch")
    save(train=shuffled, test=make(TEST))
    require_seven(load())


def test_a_folder_of_files(load: Callable, root: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra huggingface")
    write_files(root)
    found, expected = load(), load(kind="imagefolder")
    assert (found.classes, found.mean) == (expected.classes, expected.mean)
    assert found.fingerprint == expected.fingerprint


def test_a_folder_of_parquet_files(load: Callable, make: Callable, root: Path) -> None:
    names = ("ant", "bee", "cat")
    (root / "data").mkdir(parents=True)
    make(TRAIN, names).to_parquet(root / "data" / "train-00000-of-00001.parquet")
    make(TEST, names).to_parquet(root / "data" / "validation-00000-of-00001.parquet")
    found, expected = load(), load(kind="parquet")
    assert found.classes == expected.classes == list(names)
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("names", [("test", "validation"), ("validation", "val"), ("val",)])
def test_evaluated_splits(load: Callable, make: Callable, save: Callable, names: tuple) -> None:
    others = {name: make({9: 0}) for name in names[1:]}
    save(**others, train=make(TRAIN), **{names[0]: make(TEST)})
    require_seven(load())


def test_of_several_columns_the_usual_one(load: Callable, make: Callable, save: Callable) -> None:
    two = make(TRAIN, columns=("img", "fine_label"))
    two = two.add_column("coarse_label", [0, 0, 0, 0], feature=two.features["fine_label"])
    thumbnails = [{"bytes": png(9), "path": None}] * 4
    two = two.add_column("thumbnail", thumbnails, feature=two.features["img"])
    save(train=two, test=make(TEST, columns=("photo", "species")))
    require_seven(load())


def test_several_unusual_columns(load: Callable, make: Callable, save: Callable) -> None:
    two = make(TRAIN, columns=("image", "species"))
    save(train=two.add_column("genus", [0, 0, 0, 0], feature=two.features["species"]), test=two)
    with pytest.raises(
        UserError,
        match=r"images train' has the columns image \(Image\), species \(ClassLabel\), genus "
        r"\(ClassLabel\); wanted: .* ClassLabel, or of several one called label or fine_label",
    ):
        load()


@pytest.mark.parametrize("feature, column", [("Image", "image"), ("ClassLabel", "label")])
def test_a_column_that_is_missing(
    load: Callable, make: Callable, save: Callable, feature: str, column: str
) -> None:
    save(train=make(TRAIN), test=make(TEST).remove_columns(column))
    with pytest.raises(
        UserError, match=rf"images test' has the columns .*wanted: one of the feature {feature} \("
    ):
        load()


@pytest.mark.parametrize("label", [-1, None])
def test_a_missing_label(load: Callable, make: Callable, save: Callable, label: object) -> None:
    save(train=make(TRAIN), test=make({4: 0, 5: label}))
    with pytest.raises(
        UserError, match=rf"label of '.*images test' row 1 is {label}; allowed: .* 0 to 2; take"
    ):
        load()


def test_splits_of_other_classes(load: Callable, make: Callable, save: Callable) -> None:
    save(train=make(TRAIN), validation=make(TEST, ("1", "0", "2")))
    with pytest.raises(UserError, match="train and validation in .* name their classes differ"):
        load()


@pytest.mark.parametrize("lacking", ["train", "test"])
def test_a_missing_split(load: Callable, make: Callable, save: Callable, lacking: str) -> None:
    save(**{name: make(TRAIN) for name in ("train", "test", "extra") if name != lacking})
    there = {"train": "test, extra", "test": "train, extra"}[lacking]
    with pytest.raises(UserError, match=rf"images' has the splits {there}; DATASET.ROOT must be"):
        load()


def test_a_split_without_rows(
    load: Callable, make: Callable, library: ModuleType, root: Path
) -> None:
    both = library.DatasetDict({"train": make(TRAIN), "test": make({})})
    both.save_to_disk(str(root), num_shards={"train": 1, "test": 1})
    with pytest.raises(UserError, match="images test' holds no images; DATASET.ROOT must be"):
        load()


@pytest.mark.parametrize("content", [b"no image", b"", None])
def test_a_broken_image_is_named_or_left_out(
    load: Callable, make: Callable, save: Callable, library: ModuleType, content: bytes | None
) -> None:
    kinds = make({}).features
    broken = library.Dataset.from_dict(
        {"image": [content and {"bytes": content, "path": None}], "label": [0]}, kinds
    )
    save(train=library.concatenate_datasets([make(TRAIN), broken]), test=make(TEST))
    for pairs in ((), (*RESIZED, "DATASET.DECODE", "always")):
        with pytest.raises(UserError, match="images train row 4' cannot be decoded: .*") as told:
            assert load(*pairs).fingerprint
        assert "\n" not in str(told.value)
    data = load("DATASET.BROKEN", "skip")
    assert data.train.targets.tolist() == [1, 0, 2, 0] and len(data.broken) == 1


@pytest.mark.parametrize("decode", ["once", "always"])
@pytest.mark.parametrize("kind", ["saved", "files"])
def test_they_are_cached_and_resized_as_files_are(
    load: Callable, make: Callable, save: Callable, root: Path, kind: str, decode: str
) -> None:
    if kind == "saved":
        save(train=make(TRAIN), test=make(TEST))
        changed = next((root / "train").glob("*.arrow"))
    else:
        write_files(root)
        changed = root / "train" / "1" / "0.png"
    expected = load(*RESIZED)
    kept = ("DATASET.DECODE", decode, "DATASET.CACHE", str(root.parent / "cache"))
    for _ in range(2):
        found = load(*RESIZED, *kept)
        assert found.fingerprint == expected.fingerprint and found.mean == expected.mean
        for n in (3, 0, 2, 1):
            assert np.array_equal(found.train.pixels(n), expected.train.pixels(n))
    before = len(list((root.parent / "cache").iterdir()))
    os.utime(changed, ns=(1, 1))
    assert load(*RESIZED, *kept).fingerprint == expected.fingerprint
    assert len(list((root.parent / "cache").iterdir())) > before


def test_files_that_a_saved_folder_names_are_read_and_decoded_anew_when_they_change(
    load: Callable, library: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = root.parent / "files"
    write_files(files)
    # as older versions saved them: paths without bytes
    monkeypatch.setattr("datasets.arrow_writer.embed_table_storage", lambda table, **_: table)
    library.load_dataset(str(files)).save_to_disk(str(root))
    kept = ("DATASET.CACHE", str(root.parent / "cache"))
    assert np.array_equal(load(*kept).train.images[2].numpy(), noise(0, 6, 6))
    (files / "train" / "1" / "0.png").write_bytes(png(8))
    assert np.array_equal(load(*kept).train.images[2].numpy(), noise(8, 6, 6))


def test_threads_read_rows_in_order(load: Callable, make: Callable, save: Callable) -> None:
    save(train=make({seed: seed % 3 for seed in range(50)}), test=make(TEST))
    found = load("DATASET.NUM_WORKERS", 4).train
    assert np.array_equal(found.images.numpy(), np.stack([noise(n, 6, 6) for n in range(50)]))


@pytest.mark.parametrize(
    "damage", ["no folder", "file", "empty", "text", "json", "cut", "gone", "one split"]
)
def test_what_datasets_cannot_read_is_one_line(
    load: Callable, make: Callable, save: Callable, root: Path, damage: str
) -> None:
    message = "images' cannot be read by datasets: .*; DATASET.ROOT must be a folder that"
    if damage in ("no folder", "file"):
        message = "folder '.*images' is missing; DATASET.ROOT must be"
        if damage == "file":
            root.write_bytes(png(0))
    elif damage == "one split":
        message = "images' holds one split; save what its train_test_split gives"
        save(make(TRAIN))
    elif damage in ("empty", "text"):
        root.mkdir()
        if damage == "text":
            (root / "train.parquet").write_text("no table")
    else:
        save(train=make(TRAIN), test=make(TEST))
        table = next((root / "test").glob("*.arrow"))
        if damage == "json":
            (root / "test" / "state.json").write_text("{")
        elif damage == "cut":
            table.write_bytes(table.read_bytes()[:100])
        else:
            table.unlink()
    with pytest.raises(UserError, match=message) as told:
        load()
    assert "\n" not in str(told.value)


def test_offsets_out_of_the_table(
    load: Callable, make: Callable, save: Callable, root: Path
) -> None:
    save(train=make(TRAIN), test=make(TEST))
    table = next((root / "test").glob("*.arrow"))
    offsets = np.cumsum([0, *(len(png(seed)) for seed in TEST)], dtype=np.int32)
    content = table.read_bytes()
    assert content.count(offsets.tobytes()) == 1
    beyond = np.append(offsets[:-1], offsets[-1:] + 64)
    table.write_bytes(content.replace(offsets.tobytes(), beyond.tobytes()))
    with pytest.raises(
        UserError, match="images test' cannot be read by datasets: .* binary offsets"
    ):
        load()


@pytest.mark.parametrize("found", [None, ModuleType("datasets")], ids=["nothing", "a folder"])
def test_without_datasets(
    load: Callable, root: Path, monkeypatch: pytest.MonkeyPatch, found: ModuleType | None
) -> None:
    root.mkdir()
    monkeypatch.setitem(sys.modules, "datasets", found)
    with pytest.raises(UserError, match=r"needs datasets; .*pip install 'sdkd-plugin\[hugging"):
        load()
