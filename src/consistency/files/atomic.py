"""Atomic writes: files are written beside their final path, then renamed, so that they are always whole."""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from consistency.errors import UserError

REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
REFUSED |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, None}  # None: numpy or Pillow wrote only a part
_missed: set[Path] = set()  # folders for which `dispensable` has printed a line
ZIP_WRITER = ("inline_container", "PytorchStreamWriter")  # in messages of torch, which omit the reason


class Unwritable(UserError):  # noqa: N818 - what happened to the file
    """A file cannot be written. A former file at its path is unchanged."""

    def __init__(self, path: Path, reason: str, remedy: str = "make room, or choose another place") -> None:
        super().__init__(f"{path} cannot be written ({reason}): {remedy}")
        self.path = path


@contextmanager
def replacing(path: Path, *, durable: bool = False, shared: bool = False) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` at the end of the block and is removed on errors.

    It has the suffix of `path`, by which libraries choose a format. An empty file exists there already:
    libraries would otherwise write through a link, or wait at a pipe.

    Args:
        path: of the file; its folder is made.
        durable: flush to the device before renaming, for files that must survive a power failure.
        shared: whether other processes may write the same file at the same time.

    Raises:
        Unwritable: the file system, or a library, refused to write.
    """
    owner = f".{os.getpid()}" if shared else ""
    temporary = path.with_name(f".{path.stem}{owner}.tmp{path.suffix}")
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a folder of this name is refused here, and stays
    with cleaned(temporary), explain_write(path):  # a signal at any point from here on leaves no file
        create(temporary)
        yield temporary
        if durable:
            flush(temporary)
        temporary.replace(path)


def write_file(path: Path, save: Callable[[Path], object], *, shared: bool = False) -> None:
    """Write a file atomically by a function of a library, called with a temporary path."""
    with replacing(path, shared=shared) as temporary:
        save(temporary)


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Write a text atomically, in UTF-8."""
    with replacing(path, shared=shared) as temporary:
        temporary.write_text(text, encoding="utf-8")


def keep_as(source: Path, path: Path) -> None:
    """Keep a file under a second name, which replaces any former file of that name.

    It becomes a hard link, which takes no space: `replacing` never changes a file in place, so that a later
    version of `source` leaves it as it is. Where the file system has no hard links, it becomes a copy.

    Args:
        source: a file that `replacing` has written.
        path: the second name, in the same folder.

    Raises:
        Unwritable: the file system refused.
    """
    with replacing(path, durable=True) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary, follow_symlinks=False)
        except (OSError, NotImplementedError):
            create(temporary)
            shutil.copyfile(source, temporary)


def create(path: Path) -> None:
    """Create an empty file in place of any file, link or pipe; the target of a link is not changed.

    Raises:
        OSError: a folder has this name, or the folder cannot be written.
    """
    path.unlink(missing_ok=True)  # left by a run that was killed, or placed there by an attacker
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))


@contextmanager
def cleaned(*paths: Path) -> Iterator[None]:
    """Remove files and folders if the block fails."""
    try:
        yield
    except BaseException:
        for path in paths:
            remove_path(path)
        raise


@contextmanager
def explain_write(path: Path, remedy: str = "make room, or choose another place") -> Iterator[None]:
    """Turn an error of writing into `Unwritable`, which names the file."""
    try:
        yield
    except Exception as error:
        reason = write_reason(error)
        if reason is None:
            raise
        raise Unwritable(path, reason, remedy) from error


@contextmanager
def dispensable() -> Iterator[None]:
    """Ignore an `Unwritable` of the block, and print it once for each folder."""
    try:
        yield
    except Unwritable as fault:
        if fault.path.parent not in _missed:
            _missed.add(fault.path.parent)
            print(f"{fault}; going on without", file=sys.stderr, flush=True)


def write_reason(error: BaseException | None) -> str | None:
    """The reason why a file could not be written; None for another error, or for a `UserError`."""
    if isinstance(error, UserError):
        return None
    while error is not None:
        if isinstance(error, OSError) and error.errno in REFUSED:
            return error.strerror or str(error)
        if type(error).__name__ == "SafetensorError" and "I/O error" in str(error):
            return str(error).partition("I/O error: ")[2].partition(" (os error")[0] or str(error)
        if isinstance(error, RuntimeError) and any(word in str(error) for word in ZIP_WRITER):
            found = write_reason(error.__context__)
            return found or "the disk is full, or refused"
        error = error.__cause__ or error.__context__
    return None


def flush(path: Path) -> None:
    """Flush a file to its device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_path(path: Path) -> None:
    """Remove a file or a folder, if it exists and can be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
