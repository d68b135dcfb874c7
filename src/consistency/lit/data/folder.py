"""Folders and zip archives of images, decoded once into a cache."""

import hashlib
import os
import sys
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, Unpack

import numpy as np
from filelock import FileLock

from consistency.data import cache
from consistency.data.decoding import MODES, square
from consistency.data.images import Entry, Source, check_listing, count_suffixes, open_source
from consistency.data.loader import ArrayData
from consistency.errors import UserError, strip_controls, within
from consistency.files.atomic import Unwritable, explain_write
from consistency.files.paths import expanded
from consistency.lit.data.module import DataArguments, DataModule
from consistency.process.notices import notice
from consistency.watch import progress

SPARE = Path("data/cache")  # for the cache of a source whose folder cannot be written
REMEDY = "make room, or set data.cache to a folder for the converted images"
CHUNK = 64  # files that a thread decodes at a time

T = TypeVar("T")
R = TypeVar("R")


class ImageFolder(DataModule):
    """Images of a folder or a zip archive, with class folders or without, as squares of one resolution.

    Args:
        root: the folder or the archive; png, jpg, bmp, webp, tif (of one page) and gif (its first frame) are
            read at any depth. Images of other formats are refused, and other files counted in a notice.
        resolution: in pixels.
        channels: 3 for colour, 1 for grey.
        skip_broken: leave out files that cannot be read as images, and count them, instead of stopping at the
            first.
        cache: folder for the converted images; by default beside `root`, or in data/cache where that
            cannot be written.
        held_out: another folder or archive, of images for tests that no training sees.
        **arguments: of `DataModule`: batch_size, seed and the rest.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        channels: int = 3,
        skip_broken: bool = False,
        cache: str | None = None,
        held_out: str | None = None,
        **arguments: Unpack[DataArguments],
    ) -> None:
        arguments.setdefault("prefetch", 2)  # a mapped array waits for the disk
        super().__init__(**arguments)
        within("data", 1, 8192, resolution=resolution)
        if channels not in MODES:
            raise UserError(f"data.channels={channels} must be 1 (grey) or 3 (colour)")
        self.root, self.resolution, self.channels = Path(expanded(root)), resolution, channels
        self.skip_broken, self.cache, self.held_out, self.arguments = skip_broken, cache, held_out, arguments
        self.kept: Path | None = None  # the only folder for new caches; None for the usual ones
        self.place: Path | None = None  # path of the cache that is loaded
        self.key = "data.root"  # key of the config that names the root, for messages

    def write_below(self, directory: Path, named: Container[str]) -> None:
        """Write caches below `directory`, unless the user named a cache; caches elsewhere are only read."""
        self.kept = None if "cache" in named else directory / "cache"

    @property
    def promised(self) -> tuple[int, ...]:
        """(C, H, W), from the config."""
        return self.channels, self.resolution, self.resolution

    def load(self) -> ArrayData:
        """Map the cache into memory; it is made first where there is none."""
        files = open_source(self.root, self.key)
        entries = self._entries(files)
        mark = cache.fingerprint(entries, self.resolution, self.channels)
        for place in self._places():
            if cache.cache_fault(place, mark, self.skip_broken) is None:
                self._tell_skipped(place)
                return self._mapped(place)
        try:
            place = self._writable()
            with FileLock(place.with_name(place.name + ".lock")):  # processes of a machine wait for the first
                fault = cache.cache_fault(place, mark, self.skip_broken)
                if fault is not None:
                    self._convert(files, entries, mark, place, fault)
            return self._mapped(place)
        except Unwritable as fault:
            return self._in_memory(files, entries, fault)

    def _mapped(self, place: Path) -> ArrayData:
        self.place = place
        return cache.load_cache(place)

    def _tell_skipped(self, place: Path) -> None:
        """Print how many files an existing cache lacks."""
        manifest = cache.read_manifest(place)
        if manifest is not None and manifest.skipped:
            out, total = manifest.skipped, manifest.skipped + manifest.count
            notice(f"{self.key}={self.root}: left out {out:,} of {total:,} files that cannot be read")

    def class_names(self) -> list[str] | None:
        """Names of the class folders; None where there are none."""
        manifest = cache.read_manifest(self.place) if self.place else None
        return manifest.classes if manifest else None

    def load_held_out(self) -> ArrayData | None:
        """All images of the folder or archive `held_out`; None where it is not set."""
        if self.held_out is None:
            return None
        if not Path(expanded(self.held_out)).exists():
            raise UserError(f"data.held_out={self.held_out} does not exist: name a folder or an archive")
        other = ImageFolder(
            self.held_out, self.resolution, self.channels, self.skip_broken, self.cache, **self.arguments
        )
        other.kept, other.key = self.kept, "data.held_out"
        return other.load()

    def _entries(self, files: Source) -> list[Entry]:
        try:
            found = files.listing()
        except OSError as error:
            raise UserError(f"{self.key}={self.root} cannot be read: {error}") from error
        remedy = "convert them to PNG, or set data.skip_broken=true to leave them out"
        check_listing(found, f"{self.key}={self.root}", remedy, self.skip_broken)
        if found.others:
            notice(f"{self.key}={self.root}: files that are not read: {count_suffixes(found.others)}")
        return found.entries

    def _places(self) -> list[Path]:
        """Possible paths of the cache, in the order of preference."""
        root, kind = self.root.resolve(), f"{self.channels}x{self.resolution}"
        name = f"{root.name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"
        own = [] if self.kept is None else [self.kept / name / kind]
        if self.cache is not None:
            return [Path(expanded(self.cache)) / name / kind, *own]
        return [root.with_name(root.name + ".consistency-cache") / kind, *(own or [SPARE / name / kind])]

    def _writable(self) -> Path:
        """The first of these paths that can be written.

        Raises:
            Unwritable: none can.
        """
        places = self._places() if self.kept is None else self._places()[-1:]
        for place in places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
            except OSError:
                continue
            if os.access(place.parent, os.W_OK):
                return place
        tried = " and ".join(str(place.parent) for place in places)
        option = "data.cache" if self.kept is None else "+override.data.cache"
        raise Unwritable(Path(tried), "no permission", f"set {option} to a folder for the converted images")

    def _convert(self, files: Source, entries: list[Entry], mark: str, place: Path, fault: str) -> None:
        tell(f"cache {place} {fault}: converting {len(entries):,} files of {self.root}")
        converter = Converter(files, self.root, self.resolution, self.channels, self.skip_broken)
        names = [entry.name for entry in entries]
        shape = (self.channels, self.resolution, self.resolution)
        with explain_write(place, REMEDY):
            made = cache.build_cache(place, mark, shape, len(names), converter.convert(names))
        if made.skipped:
            first = min(converter.broken)
            tell(f"left out {made.skipped:,} of {len(names):,} files that cannot be read, the first: {first}")

    def _in_memory(self, files: Source, entries: list[Entry], fault: Unwritable) -> ArrayData:
        """The content of a cache in memory, for this run only.

        Raises:
            Unwritable: it would be larger than `cache.SMALL`.
        """
        names = [entry.name for entry in entries]
        if len(names) * self.channels * self.resolution**2 > cache.SMALL:
            raise fault
        tell(f"{fault}; going on without a cache: converting {len(names):,} files of {self.root}")
        converter = Converter(files, self.root, self.resolution, self.channels, self.skip_broken)
        return cache.in_memory(converter.convert(names))


class Converter:
    """Decodes image files to arrays in threads; the order is kept.

    Args:
        files: the source.
        root: name of the source in messages.
        resolution: in pixels.
        channels: 3 or 1.
        skip_broken: leave out files that are no images, instead of raising an error.
    """

    def __init__(self, files: Source, root: Path, resolution: int, channels: int, skip_broken: bool) -> None:
        self.files, self.root, self.skip_broken = files, root, skip_broken
        self.resolution, self.channels = resolution, channels
        self.broken: list[str] = []

    def convert(self, names: Sequence[str]) -> Iterator[cache.Named]:
        """Yield names and images uint8 [n, C, H, W] of a chunk at a time, and show a progress bar."""
        chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
        workers = min(os.cpu_count() or 1, 8)
        with progress("converting", len(names), 0) as advance, ThreadPoolExecutor(workers) as threads:
            for done, made in enumerate(map_in_order(threads, self._chunk, chunks, ahead=2 * workers), 1):
                yield made
                advance(min(done * CHUNK, len(names)))
        if len(self.broken) == len(names):
            raise UserError(f"data.root={self.root}: none of its {len(names):,} files is an image")

    def _chunk(self, names: Sequence[str]) -> cache.Named:
        made = {name: image for name in names if (image := self._image(name)) is not None}
        size = (0, self.channels, self.resolution, self.resolution)
        return list(made), np.stack(list(made.values())) if made else np.empty(size, np.uint8)

    def _image(self, name: str) -> np.ndarray | None:
        try:
            return square(self.files.read(name), self.resolution, self.channels)
        except Exception as error:  # Pillow raises a dozen kinds
            if not self.skip_broken:
                reason = str(error).partition(" <")[0]  # without the address of a buffer
                raise UserError(
                    f"{self.root}/{name} is not an image ({reason}): remove it, or set data.skip_broken=true "
                    "to leave such files out"
                ) from error
        self.broken.append(name)
        return None


def map_in_order(threads: Executor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """`map` in threads, which work on at most `ahead` items before their results are taken."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(threads.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    for last in waiting:
        yield last.result()


def tell(line: str) -> None:
    """Print a line, which may contain names of files, to stderr."""
    print(strip_controls(line), file=sys.stderr, flush=True)
