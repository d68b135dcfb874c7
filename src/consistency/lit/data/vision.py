"""CIFAR-10 and Fashion-MNIST: read from an existing copy, or downloaded by torchvision, as whole arrays."""

import gzip
import math
import zlib
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from consistency.data.loader import ArrayData
from consistency.errors import UserError
from consistency.files.paths import expanded
from consistency.lit.data.module import DataArguments, DataModule

LARGEST = 2**28  # bytes of an IDX file
IDX_UBYTE = b"\0\0\x08"  # an IDX file begins so when its entries are unsigned bytes; the rank follows


class CIFAR10(DataModule):
    """The 50,000 training images, 3x32x32 in 10 classes, which published statistics are of as well.

    Mirrored by default, as iCT does (2310.14189); ECT and FastGen do not, and EDM's teachers learn mirrored
    images under labels of their own.

    Args:
        root: folder with `cifar-10-batches-py` or `cifar-10-python.tar.gz`; filled by a download if need be.
        **arguments: of `DataModule`: batch_size, seed and the rest.
    """

    def __init__(self, root: str, **arguments: Unpack[DataArguments]) -> None:
        arguments.setdefault("flip", True)
        super().__init__(**arguments)
        self.root = self.target = Path(expanded(root))

    def write_below(self, directory: Path, named: Container[str]) -> None:
        """Download to `directory`, unless the user named the root."""
        self.target = self.root if "root" in named else directory

    def load(self) -> ArrayData:
        """Read the five batches, whose checksums torchvision compares."""
        return self._read(train=True)

    def load_held_out(self) -> ArrayData:
        """The 10,000 images for tests."""
        return self._read(train=False)

    def _read(self, train: bool) -> ArrayData:
        from torchvision import datasets

        known = datasets.CIFAR10
        found = None
        for root in dict.fromkeys((self.root, self.target)):
            with suppress(RuntimeError):  # not there, or not whole
                found = found or known(str(root), train)
        if found is None:
            what = f"{known.filename} (or {known.base_folder} from it)"
            fetched(self.target, what, lambda: known(str(self.target), train, download=True))
            found = known(str(self.target), train)
        x = np.ascontiguousarray(found.data.transpose(0, 3, 1, 2))
        return ArrayData(torch.from_numpy(x), torch.tensor(found.targets))


class FashionMNIST(DataModule):
    """The 60,000 training images, 1x28x28 in 10 classes of garments.

    Not mirrored by default: all shoes point to the left, and the mirrored ones are not in the data.

    Args:
        root: folder with the IDX files, gzipped or not, or with torchvision's `FashionMNIST/raw`; filled by a
            download if need be.
        **arguments: of `DataModule`: batch_size, seed and the rest.
    """

    def __init__(self, root: str, **arguments: Unpack[DataArguments]) -> None:
        super().__init__(**arguments)
        self.root = self.target = Path(expanded(root))

    def write_below(self, directory: Path, named: Container[str]) -> None:
        """Download to `directory`, unless the user named the root."""
        self.target = self.root if "root" in named else directory

    def load(self) -> ArrayData:
        """Read images and labels."""
        return self._read("train")

    def load_held_out(self) -> ArrayData:
        """The 10,000 images for tests."""
        return self._read("t10k")

    def _read(self, part: str) -> ArrayData:
        x = read_idx(self._file(f"{part}-images-idx3-ubyte"), 3)
        label = read_idx(self._file(f"{part}-labels-idx1-ubyte"), 1)
        if len(x) != len(label):
            raise UserError(
                f"data.root={self.root} holds {len(x)} images but {len(label)} labels: fetch it again"
            )
        return ArrayData(x[:, None], label.long())

    def _file(self, name: str) -> Path:
        """Where an IDX file is, after a download if need be.

        Not through torchvision, whose reader takes one layout and whose checksums are of one compression.
        """
        from torchvision import datasets

        folders = [f for root in (self.root, self.target) for f in (root, root / "FashionMNIST" / "raw")]
        places = [folder / (name + suffix) for folder in folders for suffix in ("", ".gz")]
        if not any(path.is_file() for path in places):
            part = name.partition("-")[0]
            what = f"{part}-images-idx3-ubyte.gz and {part}-labels-idx1-ubyte.gz"
            fetched(self.target, what, lambda: datasets.FashionMNIST(str(self.target), download=True))
        return next(path for path in places if path.is_file())


def fetched(root: Path, what: str, download: Callable[[], object]) -> None:
    """Download into `root`, one process at a time; what cannot be had is the user's to bring."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            download()
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.root={root} lacks a whole {what}, and downloading failed: put it there by hand, set "
            "data.root to a folder that has it, or take images of your own with data=image_folder "
            f"data.root=PATH ({reason})"
        ) from error


def read_idx(path: Path, rank: int) -> Tensor:
    """An IDX file of unsigned bytes, gzipped or not -> uint8 of that rank."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(LARGEST)  # of a larger one too little, which is noticed
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: delete it and fetch it again ({error})") from error
    start = 4 + 4 * rank  # the header: what it is, then the length of each axis
    shape = np.frombuffer(content[4:start].ljust(4 * rank, b"\0"), ">u4").tolist()
    if content[:4] != IDX_UBYTE + bytes([rank]) or len(content) != start + math.prod(shape):
        raise UserError(f"{path} is not a whole IDX file of rank {rank}: delete it and fetch it again")
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).reshape(shape)
