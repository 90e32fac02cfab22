"""An image file as [H, W, 3] uint8, whatever its mode; a file that is none is told in one line."""

import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import require_regular

# torchvision's, and .gif
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".webp"),
    *(".gif", ".ppm", ".pgm", ".tif", ".tiff"),
)
# What a file may be, whatever its name ends in: PIL knows formats that run other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "PPM", "TIFF")
# modes of 8 bits a channel
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # grey of 16 bits, which PIL clips to white
_DEEPEST = 2**16 - 1

# of damaged metadata, and of a bomb, which is refused below
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_content(file: Path) -> bytes:
    """The bytes of an image file. Raises UserError for what cannot be read, as a pipe."""
    try:
        require_regular(file)
        return file.read_bytes()
    except OSError as error:
        raise undecodable(str(file), error) from error


def decode(content: bytes, name: str) -> np.ndarray:
    """[H, W, 3] uint8 of a file in one of _FORMATS; of several pictures in one file the first.

    Grey becomes three equal channels, palettes and CMYK become RGB, transparency is dropped, and
    grey of 16 bits is scaled to 8, rounded. What EXIF says of turning is ignored, as torchvision's
    ImageFolder ignores it.

    Args:
        name: of the file, for messages.
    Raises:
        UserError: it is no image, cut short, damaged, a bomb, or of a mode that has no RGB.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as stored:
            pixels = stored.width * stored.height
            if Image.MAX_IMAGE_PIXELS and pixels > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"its {pixels} pixels are taken for a decompression bomb")
            return to_rgb(stored)
    except Exception as error:  # damaged bytes make PIL's decoders fail in every way there is
        raise undecodable(name, error) from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """[H, W, 3] uint8, as `decode` says. Raises ValueError for a mode that has no RGB."""
    if image.mode in _DEEP:
        return _shallow(np.asarray(image))
    if image.mode not in _MODES:
        raise ValueError(f"it has mode {image.mode}; allowed: {', '.join((*_MODES, *_DEEP))}")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _shallow(deep: np.ndarray) -> np.ndarray:
    """Grey of 16 bits as three channels of 8: round(v 255 / 65535)."""
    if deep.min() < 0 or deep.max() > _DEEPEST:
        raise ValueError(f"its values are {deep.min()} to {deep.max()}, beyond 16 bits")
    scale = _DEEPEST // 255
    grey = ((deep.astype(np.int64) + scale // 2) // scale).astype(np.uint8)  # [H, W]
    return np.repeat(grey[..., None], 3, axis=2)


def undecodable(name: str, error: Exception) -> UserError:
    """What is said of an image whose file cannot be read or decoded."""
    said = re.sub(r" <_io\..*?>", "", str(error))  # where it lay in memory
    reason = " ".join(said.split()) or type(error).__name__
    return UserError(f"image {name!r} cannot be decoded: {reason}; repair or remove the file")
