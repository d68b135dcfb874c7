"""A user's own images and masks, made to fit a model; what was done to them is said in one line."""

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

Given = str | Sequence[str] | None  # a file, a folder, several of them, or nothing


class Inputs(NamedTuple):
    """Images as a model's data would have them."""

    names: list[str]  # without suffixes
    u: Tensor  # uint8 [M, C, H, W]
    source: str  # in words


def inputs(given: Given, trained: Trained, count: int) -> Inputs:
    """The images that were given, all of them; or else some of the data, spread evenly over the set.

    Held-out ones, where the data set has any; else training images, which say less of a model.

    Args:
        given: files and folders; None for images of the data.
        trained: the model.
        count: images, where none were given.

    Raises:
        UserError: one of them is no image, or the model does not make images.
    """
    check_images(trained)
    if given is None:
        data = trained.data
        held_out = data.load_held_out()
        kind = "training" if held_out is None else "held-out"
        u = spread_over(data.real() if held_out is None else held_out.x, count)
        notice_once(f"input=null: {len(u)} {kind} images are taken; give your own with input=PATH")
        return Inputs([f"{kind}{i:03d}" for i in range(len(u))], u, f"{kind} images")
    paths = list_files([given] if isinstance(given, str) else given)
    fitted = [fit_image(path, trained.sample_shape) for path in paths]
    for what, images in Counter(note for one in fitted for note in one.notes).items():
        notice_once(f"input: {images} of {len(paths)} images {what}")
    return Inputs([path.stem for path in paths], torch.stack([one.u for one in fitted]), "given images")


def check_images(model: Model) -> None:
    """Refuse a model of points."""
    if not model.codec.visible:
        raise UserError("ckpt_path is of a model of points: this task needs one of images")


def check_pixel_model(model: Model, what: str) -> None:
    """Refuse a model of points, and one whose networks see other than pixels.

    Args:
        model: of images.
        what: works on pixels alone, with its verb.
    """
    check_images(model)
    pixels_of(model.codec, what, "use a model of pixels, or edit=vary, stroke or interpolate")


def spread_over(u: Tensor, count: int) -> Tensor:
    """So many of the images, spread evenly over all; all, where there are fewer."""
    return u[torch.linspace(0, len(u) - 1, min(count, len(u))).round().long()]


def list_files(given: Sequence[str]) -> list[Path]:
    """Files as they are, folders by the image files that they hold."""
    found: list[Path] = []
    for path in (Path(expanded(name)) for name in given):
        found += image_files(path) if path.is_dir() else [path]
    if not found:
        raise UserError("input=[] names no image: give a file or a folder")
    return found


def image_files(path: Path) -> list[Path]:
    """The image files of a folder; a line says what other files are not read.

    Raises:
        UserError: there are none, or images of a kind that is not read.
    """
    found = Folder(path).listing()
    check_listing(found, f"input={path}", "convert them to PNG, or name the files to take")
    if found.others:
        notice_once(f"input={path}: files that are not read: {count_suffixes(found.others)}")
    return [path / entry.name for entry in found.entries]


@dataclass(frozen=True)
class Fitted:
    """An image as a model would have it.

    Args:
        u: uint8 [C, H, W].
        notes: what was done to it, in words.
    """

    u: Tensor
    notes: list[str]


def fit_image(path: Path, shape: Sequence[int], key: str = "input") -> Fitted:
    """An image file, cut to the model's proportions around its centre, resized, and with its channels.

    Small images are enlarged by whole factors without smoothing, so that the means of their patches are they.

    Args:
        path: of the file.
        shape: (C, H, W) of the model.
        key: of the config that names the file, for messages.
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
    """An image, upright, on white where it is transparent.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file; give a PNG or JPEG file, or a folder of them")
    try:
        check_file_size(path.stat().st_size)
        return decoded(path)
    except Exception as error:  # Pillow raises a dozen kinds
        raise UserError(f"{key}={path} is not an image that can be read: give a PNG or JPEG file") from error


@dataclass(frozen=True)
class MaskFile:
    """(C, H, W) -> the known pixels by an image: **white is known, black is to be made**.

    Args:
        path: of a PNG or JPEG file, of any size; None to know the left half.
    """

    path: str | None

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """bool [H, W], true where the image is lighter than half."""
        return read_mask(self.path, tuple(shape[-2:]))


@lru_cache(maxsize=8)
def read_mask(path: str | None, size: tuple[int, int]) -> Tensor:
    """Read once, and said once."""
    if path is None:
        notice_once("mask=null: the left half is known; give your own with mask=FILE, where white is known")
        return left_half(size)
    fitted = fit_image(Path(expanded(path)), (1, *size), "mask")
    for note in fitted.notes:
        notice_once(f"mask: {note}")
    known = fitted.u[0] > 127
    if known.all() or not known.any():
        raise UserError(f"mask={path} is all of one colour: white is known, black is to be made")
    return known


def notice_once(line: str) -> None:
    """A notice, by the first process."""
    if rank() == 0:
        tell(line)
