"""The command of a sweep, as a user types it."""

import shlex
import sys
from pathlib import Path

from consistency.process.entry import typed_entry
from consistency.quoting import path_override


def command_to_go_on(directory: Path) -> str:
    """The command that goes on with this process's sweep in its directory.

    Args:
        directory: of the sweep, which the command names if it did not before.
    """
    arguments = sys.argv[1:]
    named = any(argument.startswith("run_dir=") for argument in arguments)
    place = [] if named else [path_override("run_dir", directory)]
    return shlex.join([*typed_entry(), *arguments, *place])
