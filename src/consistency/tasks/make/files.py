"""Samples on disk: a command that was stopped skips those that it has written."""

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

CHECKSUM_TYPE = np.dtype("<u8")
PNG_END = b"IEND\xaeB`\x82"  # the last chunk; Pillow does not notice if it is missing


class SampleStore(Protocol):
    """Writes samples by their numbers; several processes may write different numbers at the same time."""

    def __enter__(self) -> "SampleStore":
        """Open the store: a new one, or one with samples of a stopped command."""
        ...

    def __exit__(self, *error: object) -> None:
        """Close the store, which is incomplete if there was an error."""
        ...

    def has(self, index: range) -> bool:
        """Whether the samples of all these numbers are on disk, undamaged."""
        ...

    def keep(self, index: range, samples: Tensor) -> None:
        """Write samples [b, ...] under their b numbers."""
        ...


def to_pil(image: Tensor) -> Image.Image:
    """A uint8 image [C, H, W] of one or three channels, for Pillow."""
    pixels = image.movedim(0, -1).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


class Files:
    """A PNG per image, `000000.png`, written atomically.

    Args:
        directory: folder of the files.
        shape: of an image, (C, H, W).
    """

    def __init__(self, directory: Path, shape: Sequence[int]) -> None:
        self.directory, self.shape = directory, tuple(shape)

    def __enter__(self) -> "Files":
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def has(self, index: range) -> bool:
        """Whether all files exist and are undamaged, by the CRC-32 of their chunks."""
        return all(png_is_whole(self._path(i), self.shape) for i in index)

    def keep(self, index: range, samples: Tensor) -> None:
        """Write uint8 images [b, C, H, W] of one or three channels."""
        for i, image in zip(index, samples, strict=True):
            write_file(self._path(i), to_pil(image).save)

    def _path(self, i: int) -> Path:
        return self.directory / f"{i:06d}.png"


def png_is_whole(path: Path, shape: Sequence[int]) -> bool:
    """Whether a file is a PNG of this shape (C, H, W) whose checksums are correct."""
    channels, height, width = shape
    try:
        with Image.open(path, formats=["PNG"]) as image:
            fits = image.size == (width, height) and len(image.getbands()) == channels
            image.verify()
    except (OSError, ValueError, SyntaxError, EOFError):  # SyntaxError: a broken chunk
        return False
    return fits and path.read_bytes().endswith(PNG_END)


class Array:
    """One .npy file. An incomplete one is NAME.partial.npy, with the samples' checksums in NAME.made.npy.

    Args:
        path: of the complete file.
        shape: (count, ...).
        dtype: of the samples.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.path, self.shape = path, tuple(shape)
        self.dtype = np.dtype(str(dtype).removeprefix("torch."))
        self.partial, self.checksums = path.with_suffix(".partial.npy"), path.with_suffix(".made.npy")

    def __enter__(self) -> "Array":
        whole = from_first(self._prepare)
        self.samples: Any = map_array(self.path if whole else self.partial)
        self.made: Any = None if whole else map_array(self.checksums)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and all(everybodys(True)) and rank() == 0 and self.partial.is_file():
            self.partial.replace(self.path)
            self.checksums.unlink()

    def has(self, index: range) -> bool:
        """Whether the samples of all these numbers are in the file, with their checksums."""
        return self.made is None or all(self.made[i] == sample_checksum(self.samples[i]) for i in index)

    def keep(self, index: range, samples: Tensor) -> None:
        """Write samples, then their checksums."""
        if not self.has(index):
            rows = np.ascontiguousarray(samples.numpy(), self.dtype)
            overwrite(self.partial, self.samples, index.start, rows)
            overwrite(
                self.checksums,
                self.made,
                index.start,
                np.array([sample_checksum(row) for row in rows], CHECKSUM_TYPE),
            )

    def _prepare(self) -> bool:
        """Whether the file is complete. If not, create both temporary files unless a pair of them exists."""
        if array_fits(self.path, self.shape, self.dtype):
            return True
        ours = is_own(self.partial) and is_own(self.checksums)  # no links: both are written in place
        if not (
            ours
            and array_fits(self.partial, self.shape, self.dtype)
            and array_fits(self.checksums, self.shape[:1], CHECKSUM_TYPE)
        ):
            with explain_write(self.path):
                create(self.checksums)  # as a new file: numpy would write through a link
                np.lib.format.open_memmap(self.checksums, "w+", CHECKSUM_TYPE, self.shape[:1])
                create(self.partial)
                np.lib.format.open_memmap(self.partial, "w+", self.dtype, self.shape)
        return False


def sample_checksum(sample: np.ndarray) -> int:
    """The CRC-32 of a sample's bytes plus 1, so that 0 means that there is no sample."""
    return 1 + zlib.crc32(np.ascontiguousarray(sample).data)


def overwrite(path: Path, array: Any, first: int, rows: np.ndarray) -> None:
    """Write rows of a mapped array to its file. Writing to the map would kill the process on a full disk."""
    with explain_write(path), reopened(path) as file:
        file.seek(array.offset + first * array.strides[0])
        file.write(np.ascontiguousarray(rows, array.dtype).data)
        file.flush()
        os.fsync(file.fileno())


def array_fits(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether the file is an array of this shape and type.

    Raises:
        UserError: it is not an array.
    """
    try:
        found = map_array(path) if path.is_file() else None
        return found is not None and (found.shape, found.dtype) == (shape, dtype)
    except ValueError as error:
        raise UserError(f"{path} is damaged: delete it, and its samples are made again") from error
