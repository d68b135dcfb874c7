"""Image files, in a folder or a zip archive."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple, Protocol
from zipfile import BadZipFile, ZipFile, ZipInfo

from consistency.errors import UserError
from consistency.files.paths import absent_path, printable_path, regular
from consistency.files.pickles import is_zip

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff")
UNREAD = (  # images that are not read
    *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".tga", ".psd", ".xcf", ".svg", ".eps", ".ico"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".hdr", ".dds", ".dcm"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
)
CLUTTER = ("thumbs.db", "desktop.ini", "ehthumbs.db")  # what Windows leaves in folders
ENCRYPTED = 1  # flag of an archive's member
LARGEST = 2**28  # bytes of an image file


class Entry(NamedTuple):
    """A file, with values that change when its content changes."""

    name: str  # relative, with slashes
    size: int  # in bytes
    stamp: int  # time of modification in ns; in an archive the CRC


class Listing(NamedTuple):
    """The files of a folder or archive."""

    entries: list[Entry]  # image files, sorted by name
    others: Counter[str]  # number of other files by suffix, without hidden and system files

    @property
    def unread(self) -> Counter[str]:
        """The other files that are images in formats that are not supported, by suffix."""
        return Counter({suffix: count for suffix, count in self.others.items() if suffix in UNREAD})


class Source(Protocol):
    """A folder or an archive with image files."""

    def listing(self) -> Listing:
        """All image files, and the number of other files."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a file of the listing."""
        ...


class Folder:
    """Image files of a folder and its subfolders.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def listing(self) -> Listing:
        """All image files, and the number of others; links are followed, but no folder is read twice."""
        others = Counter[str]()
        return Listing(sorted(self._walk(others)), others)

    def read(self, name: str) -> bytes:
        """The content of a file of the listing."""
        path = regular(self.root / name)
        check_file_size(path.stat().st_size)
        return path.read_bytes()

    def _walk(self, others: Counter[str]) -> Iterator[Entry]:
        """Yield image files depth first, without recursion."""
        seen = set[tuple[int, int]]()
        stack = [self._listed(str(self.root), "", seen, others)]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
            elif isinstance(found, Entry):
                yield found
            else:
                stack.append(self._listed(*found, seen, others))

    def _listed(
        self, folder: str, prefix: str, seen: set[tuple[int, int]], others: Counter[str]
    ) -> Iterator[Entry | tuple[str, str]]:
        """Yield the image files of a folder, and (path, prefix) of its subfolders; nothing if read before."""
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
            elif not file.is_dir() and not is_clutter(file.name):
                others[kind(file.name)] += 1


class Archive:
    """Image files of a zip archive. Backslashes, which some Windows programs write, are separators.

    Args:
        root: path of the archive.
        key: config key of this path, for messages.
    """

    def __init__(self, root: Path, key: str = "data.root") -> None:
        self.root, self.key = root, key
        try:
            self.zip = ZipFile(root)
        except (BadZipFile, OSError) as error:
            raise UserError(f"{key}={root} is a damaged zip archive ({error}): fetch it again") from error
        self._members = self._named(info for info in self.zip.infolist() if not is_archive_folder(info))

    def listing(self) -> Listing:
        """All image files, sorted by name, and the number of others."""
        names = [name for name in self._members if not is_clutter(name)]
        images = {name: self._members[name] for name in names if is_image_name(name)}
        entries = [Entry(name, info.file_size, info.CRC) for name, info in images.items()]
        return Listing(sorted(entries), Counter(kind(name) for name in names if name not in images))

    def read(self, name: str) -> bytes:
        """The content of a file of the listing."""
        check_file_size(self._members[name].file_size)
        return self.zip.read(self._members[name])

    def _named(self, files: Iterable[ZipInfo]) -> dict[str, ZipInfo]:
        """Members by name.

        Raises:
            UserError: a name of an image occurs twice or leads out of the archive, or an image is encrypted.
        """
        found: dict[str, ZipInfo] = {}
        for info in files:
            name = str(PurePosixPath(info.filename.replace("\\", "/")))  # ./a is a
            if is_image_name(name):
                self._check(name, info, name in found)
            found[name] = info
        return found

    def _check(self, name: str, info: ZipInfo, again: bool) -> None:
        what = f"{self.key}={self.root} lists {printable_path(name)}"
        if again:  # only the last would be read, once for each
            raise UserError(f"{what} more than once: pack it anew")
        if PureWindowsPath(name).anchor or ".." in PurePosixPath(name).parts:
            raise UserError(f"{what}, which is no name within the archive: pack it anew")
        if info.flag_bits & ENCRYPTED:
            raise UserError(f"{what}, which is encrypted: unpack it, and name the folder")


def open_source(root: Path, key: str = "data.root") -> Source:
    """The folder or archive at `root`, which `key` of the config names."""
    if root.is_dir():
        return Folder(root)
    if not root.exists():
        raise absent_path(key, root)
    if root.is_file() and (is_zip(root) or root.suffix.lower() == ".zip"):
        return Archive(root, key)
    raise UserError(f"{key}={root} is neither a folder nor a zip archive: unpack it and name the folder")


def check_listing(found: Listing, place: str, remedy: str, skip: bool = False) -> None:
    """Check the files of a folder or archive.

    Args:
        found: its files.
        place: as an override, for messages.
        remedy: for images in unsupported formats, for messages.
        skip: whether such images are left out.

    Raises:
        UserError: there are no images, or some in unsupported formats.
    """
    if found.unread and not skip:
        raise UserError(
            f"{place} holds images of kinds that are not read ({count_suffixes(found.unread)}): {remedy}"
        )
    if not found.entries:
        raise UserError(f"{place} holds no image: expected {', '.join(SUFFIXES)}")


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image, and is neither hidden nor a system file."""
    return name.lower().endswith(SUFFIXES) and not is_clutter(name)


def is_clutter(name: str) -> bool:
    """Whether a file is hidden, or a system file of macOS or Windows."""
    hidden = any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
    return hidden or name.startswith("__MACOSX/") or name.rpartition("/")[2].lower() in CLUTTER


def is_archive_folder(info: ZipInfo) -> bool:
    """Whether a member of an archive is a folder."""
    return info.filename.endswith(("/", "\\"))


def kind(name: str) -> str:
    """The suffix of a file in lower case; empty if it has none."""
    return PurePosixPath(name).suffix.lower()


def count_suffixes(others: Counter[str]) -> str:
    """The numbers of files by suffix as text, the six most frequent ones."""
    counts = [
        f"{count:,} {printable_path(suffix) or 'without a suffix'}" for suffix, count in others.most_common(6)
    ]
    return ", ".join(counts) + (", ..." if len(others) > 6 else "")


def classes(names: Sequence[str]) -> list[str] | None:
    """The class of each file: its folder at the first level with more than one folder.

    None if all files are in one folder, or if some are beside the class folders.
    """
    parts = [PurePosixPath(name).parts for name in names]
    first, last = min(parts), max(parts)  # all names share the common start of these two
    level = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    if any(len(part) <= level + 1 for part in parts):
        return None
    return [part[level] for part in parts]


def check_file_size(size: int) -> None:
    """Check that a file is not too large for an image.

    Raises:
        ValueError: it is larger than `LARGEST`.
    """
    if size > LARGEST:
        raise ValueError(f"{size:,} bytes are more than the {LARGEST:,} of an image file")
