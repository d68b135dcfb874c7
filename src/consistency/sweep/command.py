"""The command of a sweep, as a user types it."""

import shlex
import sys
from pathlib import Path

from consistency.quoting import path_override


def again(directory: Path) -> str:
    """The command that goes on with this process's sweep in its directory.

    Args:
        directory: of the sweep, which the command names if it did not before.
    """
    script, *arguments = sys.argv
    named = any(argument.startswith("run_dir=") for argument in arguments)
    place = [] if named else [path_override("run_dir", directory)]
    return shlex.join(["python", script, *arguments, *place])
