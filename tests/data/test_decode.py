"""A file's bytes as pixels: every mode and format, and bytes that are none."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.folders import noise
from torchvision.datasets.folder import default_loader

from sdkd_plugin.data.decode import decode
from sdkd_plugin.errors import UserError

KINDS = ["PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "TIFF"]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_pixels_are_those_that_were_stored(kind: str) -> None:
    pixels = noise(0, 5, 7)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), kind), "x"), pixels)


def test_deep_images_are_scaled_rather_than_clipped() -> None:
    deep = np.full((6, 6), 65535, np.uint16)
    # 257 levels of 16 bits are one of 8, rounded
    deep[0] = [0, 128, 129, 257 * 7, 257 * 7 + 128, 257 * 7 + 129]
    for kind in ("PNG", "TIFF"):
        image = decode(encoded(Image.fromarray(deep), kind), "x")
        assert image[0, :, 0].tolist() == [0, 0, 1, 7, 7, 8] and (image[1:] == 255).all()
        assert (image == image[..., :1]).all() and image.shape == (6, 6, 3)


def test_numbers_that_are_no_colours_are_refused() -> None:
    heights = Image.fromarray(np.zeros((6, 6), np.float32))
    with pytest.raises(UserError, match="image 'x' cannot be decoded: it has mode F; allowed: 1, "):
        decode(encoded(heights, "TIFF"), "x")


def test_turning_by_exif_is_ignored_as_torchvision_ignores_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    content = encoded(Image.fromarray(noise(0, 6, 6)), "PNG", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert not np.array_equal(np.asarray(turned), noise(0, 6, 6))
    (tmp_path / "x.png").write_bytes(content)
    assert np.array_equal(np.asarray(default_loader(str(tmp_path / "x.png"))), noise(0, 6, 6))
    assert np.array_equal(decode(content, "x"), noise(0, 6, 6))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture_is_taken(kind: str) -> None:
    black, white = (Image.new("RGB", (6, 6), colour) for colour in ("black", "white"))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(black, kind, save_all=True, append_images=[white], **options)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 2
    assert (decode(content, "x") == 0).all()


def test_a_program_for_another_interpreter_is_not_run() -> None:
    """PIL hands PostScript to Ghostscript, whatever the file is called."""
    content = encoded(Image.new("RGB", (6, 6)), "EPS")
    with pytest.raises(UserError, match="x.png' cannot be decoded: cannot identify image"):
        decode(content, "x.png")


def test_an_image_that_is_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.fromarray(noise(7, 9, 12)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 108 are warned of, 201 refused
    with pytest.raises(UserError, match="image 'x' cannot be decoded: .* decompression bomb"):
        decode(content, "x")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_is_cut_short_is_refused(kind: str, share: float) -> None:
    content = encoded(Image.fromarray(noise(0, 40, 40)), kind)
    with pytest.raises(UserError, match="image 'x' cannot be decoded: .*; repair or rem") as told:
        decode(content[: int(share * len(content))], "x")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_image_is_refused_or_read(kind: str) -> None:
    content, draw = encoded(Image.new("RGB", (6, 6)), kind), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(draw.integers(1, 9)):
            damaged[draw.integers(len(damaged))] = draw.integers(256)
        try:
            decode(bytes(damaged), "x")
        except UserError as error:
            assert "\n" not in str(error)
