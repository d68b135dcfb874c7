"""Checks of paths, and of names that become part of a path, from the user or from files."""

import errno
import re
from collections.abc import Iterable
from pathlib import Path

from consistency.errors import UserError

NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]{0,63}")

A_CHECKPOINT = (
    "give a .ckpt of a run, such as RUN/checkpoints/last.ckpt, the directory of a run, "
    "exported .safetensors, or 'last'"
)
EXPECTED = {  # messages about missing paths, by the keys of the command
    "ckpt_path": f": no such file; {A_CHECKPOINT}",
    "teacher.path": ": no such file or directory; give a teacher's",
    "data.root": " does not exist: set it to a folder or a zip archive of images",
    "input": ": no such file; give a PNG or JPEG file, or a folder of them",
    "mask": ": no such file; give a PNG or JPEG file, where white is known",
    "task.results": ": no such file or directory; give a result.json, or the directory that has one",
}

MOST = 200  # largest number of names in a section


def printable_path(text: object) -> str:
    """Text of a file on one line of at most 100 characters, escaped to ASCII."""
    return str(text)[:100].encode("unicode_escape").decode()


def is_name(name: object) -> bool:
    """Whether a name may be part of a path: 1 to 64 letters, digits and ._+=-, with no dot in front."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def check_names(section: str, names: Iterable[object]) -> None:
    """Refuse names that could lead out of a directory.

    Args:
        section: of the config, for messages: `samplers`, or a file and a section of it.
        names: any objects.

    Raises:
        UserError: a name is refused, or there are too many.
    """
    listed = list(names)
    if len(listed) > MOST:
        raise UserError(f"{section}: {len(listed):,} of them would take hours; give at most {MOST}")
    for name in listed:
        if not is_name(name):
            raise UserError(
                f"{section}: '{printable_path(name)}' cannot be the name of a file: use up to 64 "
                "letters, digits and "
                "._+=- with no dot in front"
            )


def expanded(path: str) -> str:
    """A path with the home directory in place of `~` or `~user`; `./~` is a folder of that name."""
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # there is no such user: a file may be named so
        return path


def absent_path(key: str, path: str | Path) -> UserError:
    """The error for a path that does not exist.

    Args:
        key: of the config, one of `EXPECTED`.
        path: its value.
    """
    return UserError(f"{key}={path}{EXPECTED[key]}")


def regular(path: Path) -> Path:
    """The path, unless it is a pipe, a socket or a device, reading which might never end.

    Raises:
        OSError: it is neither a file nor a folder.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path
