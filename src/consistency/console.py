"""The edge to the shell: what went wrong in one line, and an exit status."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from consistency.errors import UserError, nearest

CONFIGS = Path(__file__).parents[2] / "configs"


def guarded(main: Callable[[], Any]) -> None:
    """Run an entry point. A user's mistake ends in one line and status 1; a bug keeps its traceback."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands exceptions on instead of printing them
    try:
        main()
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def explained() -> Iterator[None]:
    """The same inside Hydra, which would add a line of its own; in a sweep Hydra decides what goes on."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        yield
    except Exception as error:
        line = explain(error) if HydraConfig.get().mode == RunMode.RUN else None
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)


def explain(error: BaseException) -> str | None:
    """One line for a mistake of the user, None for a fault of ours."""
    from hydra.errors import (
        ConfigCompositionException,
        HydraException,
        InstantiationException,
        MissingConfigException,
    )

    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return one_line(str(cause))
    if isinstance(error, MissingConfigException):
        return missing_config(error)
    if isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        return unknown_key(" ".join(str(cause) for cause in chain))
    if isinstance(error, InstantiationException):
        return f"{one_line(str(chain[-1]))} ({full_key(str(error))})"
    if isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError):
        return f"{error.filename}: {error.strerror}; check the path, or choose another with run_dir=PATH"
    return one_line(str(error)) if isinstance(error, HydraException) else None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def missing_config(error: Any) -> str:
    """A group file that is not there: which are."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    known = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    return f"{group or 'config'}={name} is not in configs/{group}: {nearest(name, known)}"


def unknown_key(message: str) -> str:
    """A key that no config has: the nearest that one does."""
    found = re.search(r"Key '([^']+)' is not in struct|Could not override '([^']+)'", message)
    key = next((group for group in found.groups() if group), "") if found else ""
    whole = re.search(r"Could not override '([^']+)'", message)
    known = {
        k
        for path in CONFIGS.rglob("*.yaml")
        for k in re.findall(r"^\s*([A-Za-z_]\w*):", path.read_text(), re.M)
    }
    if not key:
        return one_line(message)
    shown = whole.group(1) if whole else key
    return f"unknown key {shown}: {nearest(key.rpartition('.')[2], known)}"


def full_key(message: str) -> str:
    """The `full_key: ...` line of Hydra's message."""
    found = re.search(r"full_key: (.+)", message)
    return f"in config key {found.group(1)}" if found else "in the config"


def one_line(message: str) -> str:
    """A message without line breaks."""
    return " ".join(message.split())
