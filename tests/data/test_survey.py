"""`python -m sdkd_plugin data`: counts by hand, duplicates that were put there, the sheet."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import noise, write_mixed

from sdkd_plugin.__main__ import main
from sdkd_plugin.data.batches import TrainBatches
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.data.sheet import CAPTION, GAP, as_seen, draw_sheet
from sdkd_plugin.data.survey import describe


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train: 5 images of ant, 2 of bee, 1 of cat; test: one each; all 12x12 and different."""
    names = [*(("train", "ant"),) * 5, *(("train", "bee"),) * 2, ("train", "cat")]
    names += [("test", name) for name in ("ant", "bee", "cat")]
    for number, (split, name) in enumerate(names):
        file = tmp_path / split / name / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number, 12, 12)).save(file)
    return tmp_path


@pytest.fixture
def lines(root: Path, capsys: pytest.CaptureFixture) -> Callable[..., list[str]]:
    """lines(KEY, VALUE, ...) -> what the command prints of the folder."""

    def printed(*words: str) -> list[str]:
        own = ["DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(root)]
        assert main(["data", *own, *words]) == 0
        return capsys.readouterr().out.splitlines()

    return printed


def test_a_clean_folder(lines: Callable) -> None:
    pixels = np.concatenate([noise(n, 12, 12).reshape(-1, 3) for n in range(8)]) / 255
    assert lines() == [
        "data set imagefolder: 3 classes",
        "train: 8 images of 12x12 pixels",
        "train: images per class: min 1 (cat), median 2, max 5 (ant)",
        "test: 3 images of 12x12 pixels",
        "test: images per class: min 1 (ant), median 1, max 1 (ant)",
        "a network sees each at 12x12 pixels",
        f"mean {pixels.mean(0).round(4).tolist()}, std {pixels.std(0).round(4).tolist()}",
        "duplicates inside train: none",
        "duplicates between train and test: none",
        "broken images, left out: 0",
    ]


def test_duplicates_are_found_whatever_they_are_called_and_stored_as(
    root: Path, lines: Callable
) -> None:
    train, test = root / "train", root / "test"
    # 01 again as another format, in another class; 02 again in its own
    Image.open(train / "ant" / "01.png").save(train / "bee" / "20.bmp")
    shutil.copy(train / "ant" / "02.png", train / "ant" / "21.png")
    shutil.copy(train / "ant" / "00.png", test / "ant" / "30.png")
    shutil.copy(train / "cat" / "07.png", test / "bee" / "31.png")
    printed = lines()
    # ant: 00 01 02 03 04 21, bee: 05 06 20, cat: 07; test: ant 08 30, bee 09 31, cat 10
    assert (
        "duplicates inside train: 2 images, 1 of them of another class (train 2 = train 5, "
        "train 1 = train 8; counted from 0)"
    ) in printed
    assert (
        "duplicates between train and test: 2 images, 1 of them of another class (train 0 = "
        "test 1, train 9 = test 3; counted from 0)"
    ) in printed


def test_the_same_bytes_in_another_shape_are_another_image(root: Path, lines: Callable) -> None:
    for number, size in enumerate([(10, 20), (20, 10), (5, 40)]):
        Image.new("RGB", size, "red").save(root / "train" / "ant" / f"8{number}.png")
    printed = lines("DATASET.TRANSFORM", "imagenet")
    assert "duplicates inside train: none" in printed
    assert "train: 11 images of width 5 to 20 and height 10 to 40 pixels" in printed


def test_four_duplicates_show_three(root: Path, lines: Callable) -> None:
    for copy in range(4):
        shutil.copy(root / "train" / "ant" / "00.png", root / "train" / "ant" / f"9{copy}.png")
    (line,) = (line for line in lines() if line.startswith("duplicates inside"))
    assert "4 images, 0 of them" in line and line.count(" = ") == 3 and ", ...; counted" in line


def test_broken_files_are_listed_not_refused(root: Path, lines: Callable) -> None:
    (root / "train" / "ant" / "03.png").write_text("no image")
    whole = (root / "test" / "bee" / "09.png").read_bytes()
    (root / "test" / "bee" / "09.png").write_bytes(whole[:200])
    shutil.copy(root / "test" / "cat" / "10.png", root / "test" / "bee" / "11.png")
    printed = lines()
    assert printed[1] == "train: 7 images of 12x12 pixels"
    assert printed[-3] == "broken images, left out: 2"
    assert "ant/03.png' cannot be decoded" in printed[-2]
    assert "bee/09.png' cannot be decoded" in printed[-1] and "truncated" in printed[-1]


@pytest.mark.parametrize("decode", ["once", "always"])
def test_sizes_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture, decode: str, root: Path
) -> None:
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "test")
    write_mixed(tmp_path)
    words = ["DATASET.TRANSFORM", "imagenet", "DATASET.DECODE", decode]
    main(["data", "DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(tmp_path), *words])
    printed = capsys.readouterr().out
    assert "train: 18 images of width 18 to 64 and height 20 to 60 pixels" in printed
    assert "a network sees each at 224x224 pixels" in printed


def test_it_takes_a_yaml_file_and_says_what_must_not_be_mirrored(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("DATASET: {TYPE: digits}\n")
    assert main(["data", str(file), "DATASET.VAL_FRACTION", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert (
        "data set digits: 10 classes" in printed and "duplicates between train and val" in printed
    )
    assert "8x8 pixels, and never mirrored, which would change its class" in printed


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert main(["data", "DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sheet_that_cannot_be_written_is_told_before_the_images_are_read(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    for place, message in ((tmp_path / "none" / "x.png", "no folder"), (tmp_path, "is a folder")):
        assert main(["data", "DATASET.TYPE", "digits", "--sheet", str(place)]) == 2
        said = capsys.readouterr()
        assert f"--sheet is {str(place)!r}, " in said.err and message in said.err
        assert said.out == ""


def test_the_sheet_shows_what_a_step_is_given(root: Path, make_config: Callable) -> None:
    place = ("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(root))
    sheet = root / "sheet.png"
    words = [*place, "DATASET.TRANSFORM", "imagenet", "DATASET.IMAGE_SIZE", "100"]
    assert main(["data", *words, "--sheet", str(sheet)]) == 0
    cfg = make_config(*words[:-1], 100, "SOLVER.BATCH_SIZE", 8)
    data = load_dataset(cfg)
    image = next(iter(TrainBatches(data, cfg, "cpu").epoch(1))).image
    pixels = as_seen(image, data)

    shown = np.asarray(Image.open(sheet))
    # 3 x 3 places for 8 images
    assert shown.shape == (GAP + 3 * (100 + CAPTION + GAP), GAP + 3 * (100 + GAP), 3)
    for number in range(8):
        top = GAP + number // 3 * (100 + CAPTION + GAP)
        left = GAP + number % 3 * (100 + GAP)
        assert np.array_equal(shown[top : top + 100, left : left + 100], pixels[number])
    assert (shown[-30:, -100:] == 255).all()  # the ninth place


def test_as_seen_undoes_the_normalisation(root: Path, make_config: Callable) -> None:
    place = ("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(root))
    cfg = make_config(*place, "DATASET.AUGMENT", "none", "SOLVER.BATCH_SIZE", 8)
    data = load_dataset(cfg)
    batch = next(iter(TrainBatches(data, cfg, "cpu").epoch(1)))
    assert np.array_equal(as_seen(batch.image, data), data.train.images[batch.index].numpy())


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    images = noise(0, 2, 2)[None]
    sheet = np.asarray(draw_sheet(images, ["ant"]))
    assert (sheet[GAP : GAP + 48, GAP : GAP + 48] == images[0, 0, 0]).all()
    caption = sheet[GAP + 96 : GAP + 96 + CAPTION]
    assert (caption < 128).any() and (caption == 255).any()


@pytest.mark.parametrize("name", ["ant", "Δ\x1b[31m", "x" * 500])
def test_any_name_can_be_written(name: str) -> None:
    assert draw_sheet(noise(0, 2, 2)[None], [name]).size == (96 + 2 * GAP, 96 + CAPTION + 2 * GAP)


def test_images_in_memory_need_no_files(make_config: Callable) -> None:
    cfg = make_config("DATASET.TYPE", "digits")
    printed = list(describe(load_dataset(cfg), 2))
    assert printed[1] == "train: 1437 images of 8x8 pixels"
