"""The user's images and masks, fitted to a model; a notice lists the conversions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from consistency.codec.pixels import pixels_of
from consistency.data.decoding import MODES, decoded
from consistency.data.images import Folder, check_file_size, check_listing, count_suffixes
from consistency.errors import UserError
from consistency.files.paths import expanded
from consistency.library.model import Model
from consistency.lit.data.folder import tell
from consistency.metrics.processes import rank
from consistency.sampling.masks import left_half
from consistency.tasks.session import Trained

InputPaths = str | Sequence[str] | None  # a file, a folder, several of them, or none


class Inputs(NamedTuple):
    """Images in the shape of a model's data."""

    names: list[str]  # file names without suffixes
    u: Tensor  # uint8 [M, C, H, W]
    source: str  # for messages: "given images", "held-out images", "training images"


def load_inputs(paths: InputPaths, trained: Trained, count: int) -> Inputs:
    """All images of the paths; without paths, images of the data set, evenly spaced over it.

    These are held-out images if the data set has any, else training images.

    Args:
        paths: files and folders; None for images of the data set.
        trained: the model.
        count: number of images of the data set.

    Raises:
        UserError: a file is not an image, or the model does not make images.
    """
    check_images(trained)
    if paths is None:
        data = trained.data
        held_out = data.load_held_out()
        kind = "training" if held_out is None else "held-out"
        u = spread_over(data.real() if held_out is None else held_out.x, count)
        tell_once(f"input=null: {len(u)} {kind} images are taken; give your own with input=PATH")
        return Inputs([f"{kind}{i:03d}" for i in range(len(u))], u, f"{kind} images")
    files = list_files([paths] if isinstance(paths, str) else paths)
    fitted = [fit_image_file(path, trained.sample_shape) for path in files]
    for note, images in Counter(note for one in fitted for note in one.notes).items():
        tell_once(f"input: {images} of {len(files)} images {note}")
    return Inputs([path.stem for path in files], torch.stack([one.u for one in fitted]), "given images")


def check_images(model: Model) -> None:
    """Raise UserError for a model of points."""
    if not model.codec.visible:
        raise UserError("ckpt_path is of a model of points: this task needs one of images")


def check_pixel_model(model: Model, what: str) -> None:
    """Raise UserError for a model of points, and for one with a codec other than `Pixels`.

    Args:
        model: must be one of pixels.
        what: subject and verb of the message, as "task=invert measures".
    """
    check_images(model)
    pixels_of(model.codec, what, "use a model of pixels, or edit=vary, stroke or interpolate")


def spread_over(u: Tensor, count: int) -> Tensor:
    """`count` of the images u [M, ...], evenly spaced over all; all of them if M is smaller."""
    return u[torch.linspace(0, len(u) - 1, min(count, len(u))).round().long()]


def list_files(paths: Sequence[str]) -> list[Path]:
    """The files among the paths, and the image files in the folders among them.

    Raises:
        UserError: there are none.
    """
    found: list[Path] = []
    for path in (Path(expanded(name)) for name in paths):
        found += list_image_files(path) if path.is_dir() else [path]
    if not found:
        raise UserError("input=[] names no image: give a file or a folder")
    return found


def list_image_files(path: Path) -> list[Path]:
    """The image files of a folder; a notice counts the other files.

    Raises:
        UserError: there are none, or images in a format that is not supported.
    """
    found = Folder(path).listing()
    check_listing(found, f"input={path}", "convert them to PNG, or name the files to take")
    if found.others:
        tell_once(f"input={path}: files that are not read: {count_suffixes(found.others)}")
    return [path / entry.name for entry in found.entries]


@dataclass(frozen=True)
class Fitted:
    """An image in the shape of a model's data.

    Args:
        u: uint8 [C, H, W].
        notes: the conversions, as "made grey".
    """

    u: Tensor
    notes: list[str]


def fit_image_file(path: Path, shape: Sequence[int], key: str = "input") -> Fitted:
    """An image file, cropped around its centre to the model's aspect ratio, resized and converted.

    Enlargement by a whole factor repeats pixels: the patch means of the result are then the original image.

    Args:
        path: of the file.
        shape: (C, H, W) of the model.
        key: the config key with the path, for messages.

    Raises:
        UserError: the file is not an image, or the model has neither 1 nor 3 channels.
    """
    C, H, W = shape
    if C not in MODES:
        raise UserError(f"this model has {C} channels, and image files have 1 or 3")
    image = open_image(path, key)
    notes = ["made grey"] if C == 1 and image.mode not in ("L", "1") else []
    image = image.convert(MODES[C])
    scale = min(image.width / W, image.height / H)
    size = max(1, round(scale * W)), max(1, round(scale * H))
    if size != image.size:
        left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
        image = image.crop((left, top, left + size[0], top + size[1]))
        notes.append("cut to the middle")
    if size != (W, H):
        notes.append(f"resized from {size[0]}x{size[1]} to {W}x{H}")
        whole = W % size[0] == 0 and H % size[1] == 0
        image = image.resize((W, H), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
    pixels = np.array(image).reshape(H, W, C)
    return Fitted(torch.from_numpy(pixels).movedim(-1, 0), notes)


def open_image(path: Path, key: str) -> Image.Image:
    """Read an image file; it is rotated as its EXIF data say, and transparent pixels become white.

    Raises:
        UserError: there is no such file, or it is not an image.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file; give a PNG or JPEG file, or a folder of them")
    try:
        check_file_size(path.stat().st_size)
        return decoded(path)
    except Exception as error:  # Pillow raises many types
        raise UserError(f"{key}={path} is not an image that can be read: give a PNG or JPEG file") from error


@dataclass(frozen=True)
class MaskFile:
    """The mask for inpainting from an image file: **white pixels are known, black ones are generated**.

    Args:
        path: PNG or JPEG file of any size; None for a mask whose left half is known.
    """

    path: str | None

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """The mask for images of this shape (C, H, W): bool [H, W], true where the file is above 127."""
        return read_mask_file(self.path, tuple(shape[-2:]))


@lru_cache(maxsize=8)
def read_mask_file(path: str | None, size: tuple[int, int]) -> Tensor:
    """The mask for images of this size (H, W), bool [H, W]; cached, so that its notices appear once.

    Raises:
        UserError: the file is not an image, or all of one colour.
    """
    if path is None:
        tell_once("mask=null: the left half is known; give your own with mask=FILE, where white is known")
        return left_half(size)
    fitted = fit_image_file(Path(expanded(path)), (1, *size), "mask")
    for note in fitted.notes:
        tell_once(f"mask: {note}")
    known = fitted.u[0] > 127
    if known.all() or not known.any():
        raise UserError(f"mask={path} is all of one colour: white is known, black is to be made")
    return known


def tell_once(line: str) -> None:
    """Print a notice on the first process, the same notice once only."""
    if rank() == 0:
        tell(line)
