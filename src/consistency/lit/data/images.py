"""Image files, in a folder or a zip archive: what there is, and each as a square array."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
from PIL import Image, ImageOps

from consistency.errors import UserError
from consistency.files.paths import absent, regular

warnings.simplefilter("error", Image.DecompressionBombWarning)  # in Pillow an error only at twice the pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")  # whatever a file is called: other decoders start programs
LARGEST = 2**28  # bytes of an image file
MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's name


class Entry(NamedTuple):
    """A file, and what changes when its content does."""

    name: str  # relative, with slashes
    size: int  # in bytes
    stamp: int  # time of modification in ns; in an archive the CRC


class Source(Protocol):
    """A place with image files."""

    def entries(self) -> list[Entry]:
        """All image files, by name."""
        ...

    def read(self, name: str) -> bytes:
        """The content of one."""
        ...


class Folder:
    """Image files of a folder and the folders within.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> list[Entry]:
        """All image files, by name; links are followed, but into no folder twice."""
        return sorted(self._walk())

    def read(self, name: str) -> bytes:
        """The content of one."""
        path = regular(self.root / name)
        check_size(path.stat().st_size)
        return path.read_bytes()

    def _walk(self) -> Iterator[Entry]:
        """Depth first, on a stack that is as deep as the folders."""
        seen = set[tuple[int, int]]()
        stack = [self._listed(str(self.root), "", seen)]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
            elif isinstance(found, Entry):
                yield found
            else:
                stack.append(self._listed(*found, seen))

    def _listed(
        self, folder: str, prefix: str, seen: set[tuple[int, int]]
    ) -> Iterator[Entry | tuple[str, str]]:
        """The image files of a folder, and the path and the prefix of each folder in it; nothing twice."""
        here = os.stat(folder)  # noqa: PTH116 - with 50,000 files Path costs seconds
        if (here.st_dev, here.st_ino) in seen:
            return
        seen.add((here.st_dev, here.st_ino))
        with os.scandir(folder) as found:
            files = list(found)  # a folder on the stack holds no descriptor
        for file in files:
            if file.is_dir() and not file.name.startswith("."):
                yield file.path, f"{prefix}{file.name}/"
            elif is_image_name(file.name) and not file.is_dir():
                # A dangling link is listed as well, so that it is not left out silently.
                status = file.stat(follow_symlinks=file.is_file())
                yield Entry(prefix + file.name, status.st_size, status.st_mtime_ns)


class Archive:
    """Image files of a zip archive.

    Args:
        root: the archive.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self.zip = ZipFile(root)
        except (BadZipFile, OSError) as error:
            raise UserError(f"data.root={root} is a damaged zip archive ({error}): fetch it again") from error

    def entries(self) -> list[Entry]:
        """All image files, by name."""
        files = [info for info in self.zip.infolist() if is_image_name(info.filename)]
        twice = [name for name, count in Counter(info.filename for info in files).items() if count > 1]
        if twice:  # only the last would be read, once for each
            raise UserError(f"data.root={self.root} lists {twice[0]} more than once: pack it anew")
        return sorted(Entry(info.filename, info.file_size, info.CRC) for info in files)

    def read(self, name: str) -> bytes:
        """The content of one."""
        check_size(self.zip.getinfo(name).file_size)
        return self.zip.read(name)


def source(root: Path) -> Source:
    """The folder or archive at `root`."""
    if root.is_dir():
        return Folder(root)
    if not root.exists():
        raise absent("data.root", root)
    if root.is_file() and (is_zipfile(root) or root.suffix.lower() == ".zip"):
        return Archive(root)
    raise UserError(f"data.root={root} is neither a folder nor a zip archive: unpack it and name the folder")


def is_image_name(name: str) -> bool:
    """Whether a file is called like an image, and is neither hidden nor an extra of macOS."""
    return name.lower().endswith(SUFFIXES) and not name.startswith((".", "__MACOSX/")) and "/." not in name


def classes(names: Sequence[str]) -> list[str] | None:
    """The class of each file: the folder it lies in on the first level where folders divide the files.

    None where all files lie in one folder, or where some lie beside the class folders.
    """
    parts = [PurePosixPath(name).parts for name in names]
    first, last = min(parts), max(parts)  # what these two share, all share
    level = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    if any(len(part) <= level + 1 for part in parts):
        return None
    return [part[level] for part in parts]


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
        return flat(ImageOps.exif_transpose(image))


def check_size(size: int) -> None:
    """Refuse files that are too large for an image.

    Raises:
        ValueError: with the size and the limit.
    """
    if size > LARGEST:
        raise ValueError(f"{size:,} bytes are more than the {LARGEST:,} of an image file")


def flat(image: Image.Image) -> Image.Image:
    """The image on white where it is transparent, and with 8 of its bits where it has 16."""
    if image.mode.startswith("I"):  # Pillow would clip these at 255 instead
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
