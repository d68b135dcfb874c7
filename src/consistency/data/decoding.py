"""The pixels of an image file, as a square array."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

warnings.simplefilter("error", Image.DecompressionBombWarning)  # in Pillow an error only at twice the pixels

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")  # whatever a file is called: others start programs
WIDE = ("I", "F")  # Pillow's names of 32 bits a number
MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's name


def square(content: bytes, resolution: int, channels: int) -> np.ndarray:
    """An image file -> its central square as uint8 [channels, resolution, resolution].

    Cropped, then resized with Lanczos's filter, which Pillow widens when it shrinks, so nothing aliases.
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
    """The image in a file, upright, on white where it is transparent.

    Raises:
        Exception: of a dozen kinds, where it is none, or has more pixels than Pillow's limit.
    """
    with Image.open(file, formats=FORMATS) as image:
        check_page(image)
        return flatten_image(ImageOps.exif_transpose(image))


def check_page(image: Image.Image) -> None:
    """Refuse TIFF files of several pages, and of numbers that are no levels of grey or colour.

    Raises:
        ValueError: says which.
    """
    if image.format != "TIFF":
        return
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("a TIFF file of several pages")
    if image.mode in WIDE:
        raise ValueError("a TIFF file of 32 bits a number, whose range is not known")


def flatten_image(image: Image.Image) -> Image.Image:
    """The image on white where it is transparent, and with 8 of its bits where it has 16."""
    if image.mode.startswith("I"):  # Pillow would clip these at 255 instead
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
