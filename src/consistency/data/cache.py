"""Caches of converted images: a uint8 array on disk, which a run maps instead of decoding images.

A cache is a folder with `images.npy`, `labels.npy` and `manifest.json`, which has checksums of both and of
itself. It is written under another name and renamed when complete, so that a killed conversion leaves no
incomplete cache.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from consistency.data.images import Entry, classes
from consistency.data.loader import ArrayData
from consistency.errors import UserError
from consistency.files.checksum import content_sha256
from consistency.files.paths import regular

VERSION = 1  # of the conversion by `square`; caches of other versions are rebuilt
SMALL = 2**30  # bytes; up to this size an array is loaded into memory, and hashed completely
BLOCK = 2**20  # bytes hashed at each of BLOCKS places of a larger array
BLOCKS = 64
FILES = ("images.npy", "labels.npy", "manifest.json")

Named = tuple[list[str], np.ndarray]  # names of n files, and their images [n, C, H, W]


@dataclass(frozen=True)
class CacheManifest:
    """The source of a cache, and the checksums of its files."""

    fingerprint: str  # of the source and the conversion
    count: int  # number of images
    skipped: int  # number of files that could not be read as images
    images: str  # checksum of images.npy
    labels: str  # checksum of labels.npy
    classes: list[str]  # names by label; empty if there are no labels


def fingerprint(entries: Sequence[Entry], resolution: int, channels: int) -> str:
    """SHA-256 of the source (names, sizes and stamps of its files), the image size and the channels."""
    digest = hashlib.sha256(f"{VERSION} {resolution} {channels}\n".encode())
    for entry in entries:
        digest.update(f"{entry.name}\0{entry.size}\0{entry.stamp}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's size and content; of a file larger than `SMALL`, of evenly spaced blocks of it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= SMALL:
            return hashlib.file_digest(file, lambda: digest).hexdigest()
        for i in range(BLOCKS):
            file.seek((size - BLOCK) * i // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def read_manifest(directory: Path) -> CacheManifest | None:
    """The manifest of a cache; None if there is none, or its checksum is wrong."""
    try:
        kept = json.loads(regular(directory / "manifest.json").read_text("utf-8"))
        return CacheManifest(**kept) if kept.pop("sha256") == content_sha256(kept) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write_manifest(directory: Path, manifest: CacheManifest) -> None:
    """Write a manifest with its checksum."""
    kept = asdict(manifest)
    text = json.dumps({**kept, "sha256": content_sha256(kept)}, indent=2)
    (directory / "manifest.json").write_text(f"{text}\n", "utf-8")


def cache_fault(directory: Path, mark: str, skip_broken: bool) -> str | None:
    """The reason why a cache cannot be used, for a message; None if it can be used.

    Args:
        directory: of the cache.
        mark: fingerprint of the source.
        skip_broken: whether the run accepts that unreadable files are left out.
    """
    manifest = read_manifest(directory)
    if manifest is None or not all((directory / name).is_file() for name in FILES):
        return "is damaged, or of an older version" if directory.exists() else "is not there yet"
    if manifest.fingerprint != mark:
        return "is of other files"
    if manifest.skipped and not skip_broken:
        return "lacks files that could not be read"
    return None if is_whole(directory, manifest) else "is damaged"


def is_whole(directory: Path, manifest: CacheManifest) -> bool:
    """Whether the arrays have the checksums of the manifest."""
    try:
        images, labels = file_checksum(directory / "images.npy"), file_checksum(directory / "labels.npy")
    except OSError:
        return False
    return (images, labels) == (manifest.images, manifest.labels)


def load_cache(directory: Path) -> ArrayData:
    """The data of a cache: in memory if small, else mapped, so that processes share memory."""
    path = directory / "images.npy"
    # Copy-on-write, because torch warns of arrays that cannot be written; nothing writes to it.
    images = np.load(path, mmap_mode=None if path.stat().st_size <= SMALL else "c")
    labels = np.load(directory / "labels.npy")
    return ArrayData(torch.from_numpy(images), torch.from_numpy(labels) if len(labels) else None)


def in_memory(batches: Iterable[Named]) -> ArrayData:
    """The same data without a cache on disk."""
    parts = list(batches)
    names = [name for some, _ in parts for name in some]
    images = torch.from_numpy(np.concatenate([images for _, images in parts]))
    known = classes(names)
    if known is None:
        return ArrayData(images)
    _, label = np.unique(np.array(known, dtype=str), return_inverse=True)
    return ArrayData(images, torch.from_numpy(label.astype(np.int64)))


def write_images(path: Path, shape: tuple[int, ...], batches: Iterable[Named]) -> list[str]:
    """Write batches of images to one .npy file [M, *shape]; returns the M file names."""
    names: list[str] = []
    with path.open("wb") as file:
        write_header(file, (0, *shape))
        for some, images in batches:
            file.write(images.tobytes())
            names += some
        file.seek(0)
        write_header(
            file, (len(names), *shape)
        )  # has the same length: numpy reserves space for the first axis
    return names


def write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file of uint8."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def build_cache(
    directory: Path, mark: str, shape: tuple[int, ...], total: int, batches: Iterable[Named]
) -> CacheManifest:
    """Write a cache.

    Args:
        directory: of the cache; a former one is replaced.
        mark: fingerprint of the source.
        shape: of an image, (C, H, W).
        total: number of files of the source.
        batches: names and images of the files that could be read.

    Returns:
        The manifest.
    """
    partial = directory.with_name(directory.name + ".partial")
    discard(partial)  # of a run that was killed
    partial.mkdir()
    try:
        kept = write_images(partial / "images.npy", shape, batches)
        known, label = np.unique(np.array(classes(kept) or [], dtype=str), return_inverse=True)
        np.save(partial / "labels.npy", label.astype(np.int64))
        sums = {name: file_checksum(partial / f"{name}.npy") for name in ("images", "labels")}
        manifest = CacheManifest(mark, len(kept), total - len(kept), **sums, classes=known.tolist())
        write_manifest(partial, manifest)
        discard(directory)
        partial.replace(directory)
    finally:
        discard(partial)
    return manifest


def discard(directory: Path) -> None:
    """Remove a cache, or an incomplete one of a killed conversion. Files with other names are never removed.

    Raises:
        UserError: the path is not a folder, or has other files in it.
    """
    if not os.path.lexists(directory):
        return
    inside = None if directory.is_symlink() or not directory.is_dir() else list(directory.iterdir())
    foreign = [directory] if inside is None else [p for p in inside if p.name not in FILES or p.is_dir()]
    if inside is None or foreign:
        raise UserError(
            f"{foreign[0]} is not of a cache of converted images and was left alone: move it, or set "
            "data.cache to another folder"
        )
    for path in inside:
        path.unlink()
    directory.rmdir()
