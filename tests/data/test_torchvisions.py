"""torchvision's data sets by name, from files written here in the layout that its classes read."""

import gzip
import inspect
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import torchvision_files as made
from torchvision import datasets

from sdkd_plugin.__main__ import main
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.data.torchvisions import KINDS
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.identity import data_identity


@pytest.fixture
def load(tmp_path: Path, make_config: Callable) -> Callable[..., Dataset]:
    """load("SVHN", KEY, VALUE, ...) -> the data set in the test's own folder."""

    def loaded(name: str, *pairs: object) -> Dataset:
        own = ("DATASET.TYPE", f"torchvision:{name}", "DATASET.ROOT", str(tmp_path))
        return load_dataset(make_config(*own, *pairs))

    return loaded


def as_stored(split: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(made.pixels(split, *shape))


@pytest.mark.parametrize(
    "name, flips", [("FashionMNIST", True), ("MNIST", False), ("KMNIST", False)]
)
def test_grey_images_become_three_channels_and_it_is_said_once(
    load: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, flips: bool
) -> None:
    made.write_idx(tmp_path, name)
    data = load(name)
    expected = as_stored("train", 28, 28)[..., None].expand(-1, -1, -1, 3)
    assert data.train.images.equal(expected) and data.flips is flips
    assert data.test.images[..., 2].equal(as_stored("test", 28, 28))
    assert data.train.targets.tolist() == made.labels("train", 10).tolist()
    assert data.classes == getattr(datasets, name).classes
    said = capsys.readouterr().out
    assert said == f"note: the images of {name} are grey; each becomes three equal channels\n"


def test_mean_and_std_are_measured_and_stand_in_the_identity(
    load: Callable, tmp_path: Path
) -> None:
    made.write_idx(tmp_path, "FashionMNIST")
    data = load("FashionMNIST")
    values = made.pixels("train", 28, 28) / 255
    mean, std = round(values.mean(), 4), round(values.std(), 4)
    assert (data.mean, data.std) == ((mean,) * 3, (std,) * 3)
    identity = data_identity(data)
    assert (identity["DATASET.MEAN"], identity["DATASET.STD"]) == ([mean] * 3, [std] * 3)
    given = load("FashionMNIST", "DATASET.MEAN", "[0.5, 0.5, 0.5]")
    assert (given.mean, given.std) == ((0.5,) * 3, (std,) * 3)


def test_cifar10(load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_cifar10(tmp_path, monkeypatch.setattr)
    data = load("CIFAR10")
    order = np.concatenate([np.arange(12)[n::5] for n in range(5)])
    rows = as_stored("train", 3, 32, 32).permute(0, 2, 3, 1)
    assert data.train.images.equal(rows[order]) and data.flips
    assert data.train.targets.tolist() == (order % 10).tolist()
    assert data.test.images.equal(as_stored("test", 3, 32, 32).permute(0, 2, 3, 1))
    assert data.classes == [f"class {n}" for n in range(10)]


def test_svhn_has_no_names_and_no_mirror(
    load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write_svhn(tmp_path, monkeypatch.setattr)
    data = load("SVHN")
    assert data.train.images.equal(as_stored("train", 32, 32, 3)) and not data.flips
    assert data.train.targets.tolist() == made.labels("train", 10).tolist()
    assert data.classes == [str(digit) for digit in range(10)]


def test_stl10(load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_stl10(tmp_path, monkeypatch.setattr)
    data = load("STL10")
    assert data.train.images.equal(as_stored("train", 96, 96, 3)) and data.flips
    assert data.test.targets.tolist() == [0, 1, 2, 3, 4] and data.classes == list("abcdefghij")


def test_food101_has_files_of_several_sizes(load: Callable, tmp_path: Path) -> None:
    made.write_food101(tmp_path)
    with pytest.raises(UserError, match=r"differ in size: '.*train0.jpg' is 40x40, '.*train2"):
        load("Food101")
    data = load("Food101", "DATASET.IMAGE_SIZE", 20)
    assert data.classes == ["pie", "soup"] and data.train.images.shape == (12, 20, 20, 3)
    assert data.train.targets.tolist() == [0] * 6 + [1] * 6

    file = tmp_path / "food-101" / "images" / "soup" / "train3.jpg"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match="image '.*soup/train3.jpg' cannot be decoded: .*[Tt]runc"):
        load("Food101", "DATASET.IMAGE_SIZE", 20)


def test_files_are_cut_short(load: Callable, tmp_path: Path) -> None:
    made.write_idx(tmp_path, "MNIST")
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="torchvision:MNIST could not be read from ") as caught:
        load("MNIST")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "null", '{"pie": 3}', '{"pie": 1.5, "soup": []}', "{"])
def test_a_list_of_files_that_is_damaged(load: Callable, tmp_path: Path, content: str) -> None:
    made.write_food101(tmp_path)
    (tmp_path / "food-101" / "meta" / "train.json").write_text(content)
    with pytest.raises(UserError, match="torchvision:Food101 could not be read from ") as caught:
        load("Food101")
    assert "\n" not in str(caught.value)


def test_a_magic_number_that_is_wrong(load: Callable, tmp_path: Path) -> None:
    made.write_idx(tmp_path, "MNIST")
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(b"\0\0\1" + file.read_bytes()[3:])
    with pytest.raises(UserError, match="MNIST could not be read from .*: AssertionError; put"):
        load("MNIST")


def test_images_and_labels_that_do_not_belong_together(load: Callable, tmp_path: Path) -> None:
    made.write_idx(tmp_path, "MNIST")
    raw = tmp_path / "MNIST" / "raw"
    (raw / "t10k-labels-idx1-ubyte").write_bytes((raw / "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(UserError, match="MNIST test has 5 images and 12 labels; its files in DATA"):
        load("MNIST")


def test_a_split_without_images(load: Callable, tmp_path: Path) -> None:
    made.write_food101(tmp_path)
    (tmp_path / "food-101" / "meta" / "test.json").write_text('{"pie": []}')
    with pytest.raises(UserError, match="Food101 test has no images; check DATASET.ROOT '"):
        load("Food101", "DATASET.IMAGE_SIZE", 20)


def test_a_first_image_that_is_broken_is_left_out_as_any_other(
    load: Callable, tmp_path: Path
) -> None:
    made.write_food101(tmp_path)
    (tmp_path / "food-101" / "images" / "pie" / "train0.jpg").write_text("no image")
    with pytest.raises(UserError, match="image '.*pie/train0.jpg' cannot be decoded: cannot iden"):
        load("Food101", "DATASET.IMAGE_SIZE", 20)
    data = load("Food101", "DATASET.IMAGE_SIZE", 20, "DATASET.BROKEN", "skip")
    assert len(data.train) == 11 and len(data.broken) == 1


def test_what_is_not_there_and_may_not_be_downloaded(load: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CIFAR10 cannot be read .*; set DATASET.DOWNLOAD True"):
        load("CIFAR10", "DATASET.DOWNLOAD", False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["FashionMNIST", "CIFAR10", "SVHN", "STL10", "Food101"])
def test_a_download_without_a_net_is_one_line(
    load: Callable, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked = []

    def unreachable(request: urllib.request.Request, *more: object, **also: object) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(UserError, match="nor downloaded to it: .*no route to host") as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert asked and all(url.startswith("http") for url in asked)


def test_a_class_that_downloads_nothing_says_so(load: Callable) -> None:
    with pytest.raises(UserError, match="FER2013 cannot be read .* torchvision downloads none"):
        load("FER2013")


def test_images_whose_labels_are_withheld(
    load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "fer2013"
    folder.mkdir()
    row = " ".join(["7"] * 48 * 48)
    (folder / "train.csv").write_text(f'emotion,pixels\n0,"{row}"\n1,"{row}"\n')
    (folder / "test.csv").write_text(f'pixels\n"{row}"\n')
    resources = {key: (file, None) for key, (file, _) in datasets.FER2013._RESOURCES.items()}
    monkeypatch.setattr(datasets.FER2013, "_RESOURCES", resources)
    with pytest.raises(UserError, match="FER2013 test has images without a label"):
        load("FER2013")


@pytest.mark.parametrize("name", KINDS)
def test_every_name_is_a_class_that_takes_its_arguments(name: str) -> None:
    taken = inspect.signature(getattr(datasets, name)).parameters
    for arguments in (KINDS[name].train, KINDS[name].test):
        assert arguments.keys() <= taken.keys()


def test_an_unknown_name_is_told_with_the_nearest(load: Callable) -> None:
    with pytest.raises(UserError, match="'fashionmnist'.*: did you mean 'FashionMNIST'"):
        load("fashionmnist")


def test_a_palette_image_of_a_class_is_shown_as_rgb(load: Callable, tmp_path: Path) -> None:
    made.write_food101(tmp_path)
    for file in (tmp_path / "food-101" / "images").rglob("*.jpg"):
        Image.new("CMYK", (20, 20), (255, 0, 0, 0)).save(file)
    image = load("Food101", "DATASET.IMAGE_SIZE", 20).train.images[0]
    assert (image[..., 0] < 60).all() and (image[..., 1:] > 150).all()


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """The real Fashion-MNIST's four files, unpacked where torchvision unpacks its own; Debian has
    compressed them anew, so that their published sums do not fit.
    """
    source = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    if not source.is_dir():
        pytest.skip(
            f"needs the real Fashion-MNIST in {source} (Debian's package dataset-fashion-mnist), "
            "or in the folder that FASHION_MNIST names"
        )
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in source.glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    return tmp_path


def test_the_real_fashion_mnist(load: Callable, real: Path) -> None:
    data = load("FashionMNIST")
    assert data.train.images.shape == (60000, 28, 28, 3) and len(data.test) == 10000
    assert torch.bincount(data.train.targets).tolist() == [6000] * 10
    # as they are published everywhere
    assert data.mean == (0.286,) * 3 and data.std == (0.353,) * 3


@pytest.mark.slow
def test_a_student_learns_the_real_fashion_mnist(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(real)
    file = Path(__file__).resolve().parents[2] / "configs/cifar100/vanilla/resnet8.yaml"
    words = [
        *("DATASET.TYPE", "torchvision:FashionMNIST", "DATASET.ROOT", str(real)),
        *("DATASET.SUBSET", "0.1", "SOLVER.EPOCHS", "1"),
    ]
    assert main(["train", "--cfg", str(file), *words]) == 0
    (result,) = Path("output").rglob("result.json")
    assert json.loads(result.read_text())["last"]["top1"] > 40  # chance: 10
