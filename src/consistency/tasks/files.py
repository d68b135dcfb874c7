"""Samples on disk, so that a command that was stopped goes on instead of beginning anew."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from consistency.atomic import explained, write
from consistency.errors import UserError
from consistency.metrics.processes import everybodys, from_first, rank


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
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> "Files":
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        """There is nothing to end."""

    def has(self, index: range) -> bool:
        """Whether all files are there."""
        return all(self._path(i).is_file() for i in index)

    def keep(self, index: range, samples: Tensor) -> None:
        """Write uint8 images [b, C, H, W] of one or three channels."""
        for i, image in zip(index, samples, strict=True):
            write(self._path(i), png(image).save)

    def _path(self, i: int) -> Path:
        return self.directory / f"{i:06d}.png"


class Array:
    """One .npy file, under another name until it is whole, and beside it which samples it has.

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
        self.samples: Any = np.load(self.path if whole else self.partial, mmap_mode="r")
        self.made: Any = np.ones(self.shape[0], bool) if whole else np.load(self.marks, mmap_mode="r")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and all(everybodys(True)) and rank() == 0 and self.partial.is_file():
            self.partial.replace(self.path)
            self.marks.unlink()

    def has(self, index: range) -> bool:
        """Whether all are in the file."""
        return bool(self.made[index.start : index.stop].all())

    def keep(self, index: range, samples: Tensor) -> None:
        """Write samples, then that they are there."""
        if not self.has(index):
            overwrite(self.partial, self.samples, index.start, samples.numpy())
            overwrite(self.marks, self.made, index.start, np.ones(len(index), bool))

    def _prepare(self) -> bool:
        """Whether the file is whole; else there are both others: marks without samples would lie."""
        if fits(self.path, self.shape):
            return True
        if not (fits(self.partial, self.shape) and fits(self.marks, self.shape[:1])):
            with explained(self.path):
                np.lib.format.open_memmap(self.marks, "w+", np.dtype(bool), self.shape[:1])
                np.lib.format.open_memmap(self.partial, "w+", self.dtype, self.shape)
        return False


def overwrite(path: Path, mapped: Any, first: int, rows: np.ndarray) -> None:
    """Write rows of a mapped array. Not through the map: on a full disk that kills the process."""
    with explained(path), path.open("r+b") as file:
        file.seek(mapped.offset + first * mapped.strides[0])
        file.write(np.ascontiguousarray(rows, mapped.dtype).data)
        file.flush()
        os.fsync(file.fileno())


def fits(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether there is an array of this shape."""
    try:
        return path.is_file() and np.load(path, mmap_mode="r").shape == shape
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged: delete it, and what it held is made again") from error
