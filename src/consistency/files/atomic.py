"""Files that are whole or not there: written beside their final name, then renamed."""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from consistency.errors import UserError

REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
REFUSED |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, None}  # None: numpy and Pillow wrote less than all
_missed: set[Path] = set()  # folders that a line has been said of
ZIP_WRITER = ("inline_container", "PytorchStreamWriter")  # torch's, which hides the reason


class Unwritable(UserError):  # noqa: N818 - what happened to the file
    """A file that cannot be written. What stood in its place is as it was."""

    def __init__(self, path: Path, reason: str, remedy: str = "make room, or choose another place") -> None:
        super().__init__(f"{path} cannot be written ({reason}): {remedy}")
        self.path = path


@contextmanager
def replacing(path: Path, *, durable: bool = False, shared: bool = False) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well and is removed otherwise.

    It has the suffix of `path`, by which libraries choose a format. An empty file of this process is
    there already: libraries would write through a link, and wait for a reader at a pipe.

    Args:
        path: the file; its folder is made.
        durable: flush to the device before renaming, for what must outlive a power failure.
        shared: other processes may write the same file at the same time.

    Raises:
        Unwritable: the system, or a library in its place, refused.
    """
    owner = f".{os.getpid()}" if shared else ""
    temporary = path.with_name(f".{path.stem}{owner}.tmp{path.suffix}")
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a folder of this name is refused here, and stays
    with cleaned(temporary), explain_write(path):  # wherever a signal comes from here on, nothing is left
        create(temporary)
        yield temporary
        if durable:
            flush(temporary)
        temporary.replace(path)


def write_file(path: Path, save: Callable[[Path], object], *, shared: bool = False) -> None:
    """Have a file saved by a library, whole or not at all."""
    with replacing(path, shared=shared) as temporary:
        save(temporary)


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Write a text, whole or not at all."""
    with replacing(path, shared=shared) as temporary:
        temporary.write_text(text, encoding="utf-8")


def keep_as(source: Path, path: Path) -> None:
    """Keep a whole file under a second name as well, in place of what stands there.

    As a hard link, which costs no room: files that `replacing` writes are never changed in place, and a later
    version of `source` leaves this one alone. Where the file system has no such links, as a copy.

    Args:
        source: a file that `replacing` has written.
        path: the second name, in the same folder.

    Raises:
        Unwritable: the system refused.
    """
    with replacing(path, durable=True) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary, follow_symlinks=False)
        except (OSError, NotImplementedError):
            create(temporary)
            shutil.copyfile(source, temporary)


def create(path: Path) -> None:
    """Make an empty file in place of any file, link or pipe; what a link leads to stays as it is.

    Raises:
        OSError: a folder has this name, or nothing can be written here.
    """
    path.unlink(missing_ok=True)  # left by a run that was killed, or planted
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
    """Turn a refusal of the system to write into a line that names the file."""
    try:
        yield
    except Exception as error:
        why = write_reason(error)
        if why is None:
            raise
        raise Unwritable(path, why, remedy) from error


@contextmanager
def dispensable() -> Iterator[None]:
    """What cannot be written in the block is done without; a line says so, one for each folder."""
    try:
        yield
    except Unwritable as fault:
        if fault.path.parent not in _missed:
            _missed.add(fault.path.parent)
            print(f"{fault}; going on without", file=sys.stderr, flush=True)


def write_reason(error: BaseException | None) -> str | None:
    """Why nothing could be written; None if that is not what an error says, or if it says so already."""
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
    """Wait until a file is on its device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_path(path: Path) -> None:
    """Remove a file or a folder, if it is there and the system lets us."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
