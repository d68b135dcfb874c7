"""CIFAR-10 and Fashion-MNIST as arrays, from an existing copy or downloaded by torchvision."""

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
IDX_UBYTE = b"\0\0\x08"  # the first bytes of an IDX file of unsigned bytes; the rank follows


class CIFAR10(DataModule):
    """The 50,000 training images, 3x32x32 in 10 classes, from which published statistics are computed.

    Mirrored by default, as in iCT (2310.14189). ECT and FastGen do not mirror, and EDM's teachers are trained
    on mirrored images with augmentation labels.

    Args:
        root: folder with `cifar-10-batches-py` or `cifar-10-python.tar.gz`; downloaded if it has neither.
        **arguments: of `DataModule`: batch_size, seed and the rest.
    """

    def __init__(self, root: str, **arguments: Unpack[DataArguments]) -> None:
        arguments.setdefault("flip", True)
        super().__init__(**arguments)
        self.root = self.target = Path(expanded(root))

    def write_below(self, directory: Path, named: Container[str]) -> None:
        """Download to `directory`, unless the user gave the root."""
        self.target = self.root if "root" in named else directory

    def load(self) -> ArrayData:
        """Read the five training batches, whose checksums torchvision verifies."""
        return self._read(train=True)

    def load_held_out(self) -> ArrayData:
        """The 10,000 test images."""
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
            download_to(self.target, what, lambda: known(str(self.target), train, download=True))
            found = known(str(self.target), train)
        x = np.ascontiguousarray(found.data.transpose(0, 3, 1, 2))
        return ArrayData(torch.from_numpy(x), torch.tensor(found.targets))


class FashionMNIST(DataModule):
    """The 60,000 training images, 1x28x28 in 10 classes of garments.

    Not mirrored by default: all shoes point to the left.

    Args:
        root: folder with the IDX files, gzipped or not, or with torchvision's `FashionMNIST/raw`; downloaded
            where there is neither.
        **arguments: of `DataModule`: batch_size, seed and the rest.
    """

    def __init__(self, root: str, **arguments: Unpack[DataArguments]) -> None:
        super().__init__(**arguments)
        self.root = self.target = Path(expanded(root))

    def write_below(self, directory: Path, named: Container[str]) -> None:
        """Download to `directory`, unless the user gave the root."""
        self.target = self.root if "root" in named else directory

    def load(self) -> ArrayData:
        """Read images and labels."""
        return self._read("train")

    def load_held_out(self) -> ArrayData:
        """The 10,000 test images."""
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
        """Path of an IDX file, which is downloaded where there is none.

        torchvision's reader is not used: it accepts one layout of folders and one compression only.
        """
        from torchvision import datasets

        folders = [f for root in (self.root, self.target) for f in (root, root / "FashionMNIST" / "raw")]
        places = [folder / (name + suffix) for folder in folders for suffix in ("", ".gz")]
        if not any(path.is_file() for path in places):
            part = name.partition("-")[0]
            what = f"{part}-images-idx3-ubyte.gz and {part}-labels-idx1-ubyte.gz"
            download_to(self.target, what, lambda: datasets.FashionMNIST(str(self.target), download=True))
        return next(path for path in places if path.is_file())


def download_to(root: Path, what: str, download: Callable[[], object]) -> None:
    """Download to `root`, one process at a time.

    Args:
        root: the folder, which is made.
        what: name of the files, for the message.
        download: downloads and verifies them.

    Raises:
        UserError: it fails; tells the user to provide the files.
    """
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
    """Read an IDX file of unsigned bytes, gzipped or not, as a uint8 tensor of this rank.

    Raises:
        UserError: the file cannot be read, or is damaged.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(LARGEST)  # a larger file is refused below by its length
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: delete it and fetch it again ({error})") from error
    start = 4 + 4 * rank  # the header: a magic number, then the length of each axis
    shape = np.frombuffer(content[4:start].ljust(4 * rank, b"\0"), ">u4").tolist()
    if content[:4] != IDX_UBYTE + bytes([rank]) or len(content) != start + math.prod(shape):
        raise UserError(f"{path} is not a whole IDX file of rank {rank}: delete it and fetch it again")
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).reshape(shape)
