"""Decoding of image files to square arrays."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow raises only at twice the limit

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")  # by content; for others Pillow starts programs
WIDE = ("I", "F")  # Pillow's modes with 32 bits per number
MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's name


def square(content: bytes, resolution: int, channels: int) -> np.ndarray:
    """The content of an image file -> its central square, uint8 [channels, resolution, resolution].

    It is cropped, then resized with a Lanczos filter, which Pillow widens for reduction to avoid aliasing.
    """
    upright = decoded(BytesIO(content)).convert(MODES[channels])
    side = min(upright.size)
    left, top = ((length - side) // 2 for length in upright.size)
    if upright.size != (side, side):
        upright = upright.crop((left, top, left + side, top + side))
    if side != resolution:
        upright = upright.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(upright).reshape(resolution, resolution, channels).transpose(2, 0, 1)


def decoded(file: Path | BytesIO) -> Image.Image:
    """The image in a file, rotated upright, on white where it is transparent.

    Raises:
        Exception: of many types, if it is not an image, or has more pixels than Pillow's limit.
    """
    with Image.open(file, formats=FORMATS) as image:
        check_page(image)
        return flatten_image(ImageOps.exif_transpose(image))


def check_page(image: Image.Image) -> None:
    """Check that a TIFF file has one page and at most 16 bits per number.

    Raises:
        ValueError: it has not.
    """
    if image.format != "TIFF":
        return
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("a TIFF file of several pages")
    if image.mode in WIDE:
        raise ValueError("a TIFF file of 32 bits a number, whose range is not known")


def flatten_image(image: Image.Image) -> Image.Image:
    """The image on white where it is transparent; of 16-bit numbers, the upper 8 bits."""
    if image.mode.startswith("I"):  # Pillow would clip these at 255 instead
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
