"""Samples on disk, so that a command that was stopped goes on instead of beginning anew."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from consistency.data.npy import map_array
from consistency.errors import UserError
from consistency.files.atomic import create, explain_write, write_file
from consistency.files.owned import is_own, reopened
from consistency.metrics.processes import everybodys, from_first, rank

MARKS = np.dtype("<u8")
PNG_END = b"IEND\xaeB`\x82"  # the last chunk, which Pillow does not miss


class Keeper(Protocol):
    """Keeps samples by their numbers; several processes may keep other numbers at the same time."""

    def __enter__(self) -> "Keeper":
        """Begin, or go on."""
        ...

    def __exit__(self, *error: object) -> None:
        """End, perhaps too early."""
        ...

    def has(self, index: range) -> bool:
        """Whether all of them are kept."""
        ...

    def keep(self, index: range, samples: Tensor) -> None:
        """Keep them."""
        ...


def png(image: Tensor) -> Image.Image:
    """A uint8 image [C, H, W] of one or three channels."""
    pixels = image.movedim(0, -1).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


class Files:
    """A PNG per image, `000000.png`, whole or not there.

    Args:
        directory: where they go.
        shape: of an image, (C, H, W).
    """

    def __init__(self, directory: Path, shape: Sequence[int]) -> None:
        self.directory, self.shape = directory, tuple(shape)

    def __enter__(self) -> "Files":
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        """There is nothing to end."""

    def has(self, index: range) -> bool:
        """Whether all files are there and whole, by the CRC-32 of their chunks."""
        return all(png_is_whole(self._path(i), self.shape) for i in index)

    def keep(self, index: range, samples: Tensor) -> None:
        """Write uint8 images [b, C, H, W] of one or three channels."""
        for i, image in zip(index, samples, strict=True):
            write_file(self._path(i), png(image).save)

    def _path(self, i: int) -> Path:
        return self.directory / f"{i:06d}.png"


def png_is_whole(path: Path, shape: Sequence[int]) -> bool:
    """Whether a file is a PNG of this shape whose checksums agree."""
    channels, height, width = shape
    try:
        with Image.open(path, formats=["PNG"]) as image:
            fits = image.size == (width, height) and len(image.getbands()) == channels
            image.verify()
    except (OSError, ValueError, SyntaxError, EOFError):  # Pillow says of a broken chunk that it is syntax
        return False
    return fits and path.read_bytes().endswith(PNG_END)


class Array:
    """One .npy file, under another name until it is whole, and beside it the checksum of each sample it has.

    Args:
        path: of the file.
        shape: [count, ...].
        dtype: of the samples.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.path, self.shape = path, tuple(shape)
        self.dtype = np.dtype(str(dtype).removeprefix("torch."))
        self.partial, self.marks = path.with_suffix(".partial.npy"), path.with_suffix(".made.npy")

    def __enter__(self) -> "Array":
        whole = from_first(self._prepare)
        self.samples: Any = map_array(self.path if whole else self.partial)
        self.made: Any = None if whole else map_array(self.marks)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and all(everybodys(True)) and rank() == 0 and self.partial.is_file():
            self.partial.replace(self.path)
            self.marks.unlink()

    def has(self, index: range) -> bool:
        """Whether all are in the file, as they were written."""
        return self.made is None or all(self.made[i] == sample_checksum(self.samples[i]) for i in index)

    def keep(self, index: range, samples: Tensor) -> None:
        """Write samples, then that they are there."""
        if not self.has(index):
            rows = np.ascontiguousarray(samples.numpy(), self.dtype)
            overwrite(self.partial, self.samples, index.start, rows)
            overwrite(
                self.marks, self.made, index.start, np.array([sample_checksum(row) for row in rows], MARKS)
            )

    def _prepare(self) -> bool:
        """Whether the file is whole; else there are both others: marks without samples would lie."""
        if array_fits(self.path, self.shape, self.dtype):
            return True
        ours = is_own(self.partial) and is_own(self.marks)  # both are written in place
        if not (
            ours
            and array_fits(self.partial, self.shape, self.dtype)
            and array_fits(self.marks, self.shape[:1], MARKS)
        ):
            with explain_write(self.path):
                create(self.marks)  # numpy would write through a link
                np.lib.format.open_memmap(self.marks, "w+", MARKS, self.shape[:1])
                create(self.partial)
                np.lib.format.open_memmap(self.partial, "w+", self.dtype, self.shape)
        return False


def sample_checksum(sample: np.ndarray) -> int:
    """The checksum of a sample; never 0, which stands for none."""
    return 1 + zlib.crc32(np.ascontiguousarray(sample).data)


def overwrite(path: Path, array: Any, first: int, rows: np.ndarray) -> None:
    """Write rows of a mapped array. Not through the map: on a full disk that kills the process."""
    with explain_write(path), reopened(path) as file:
        file.seek(array.offset + first * array.strides[0])
        file.write(np.ascontiguousarray(rows, array.dtype).data)
        file.flush()
        os.fsync(file.fileno())


def array_fits(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether there is an array of this shape and type."""
    try:
        found = map_array(path) if path.is_file() else None
        return found is not None and (found.shape, found.dtype) == (shape, dtype)
    except ValueError as error:
        raise UserError(f"{path} is damaged: delete it, and what it held is made again") from error
