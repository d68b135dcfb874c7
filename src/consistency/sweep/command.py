"""The command of a sweep, as a user types it."""

import re
import shlex
import sys
from pathlib import Path


def quoted(value: str) -> str:
    """A string as the value of an override, which Hydra reads back as it is."""
    plain = re.fullmatch(r"[\w./:@%+-]*/[\w./:@%+-]*|[A-Za-z_]\w*", value, re.ASCII)
    if plain and value.lower() not in ("null", "true", "false", "inf", "nan"):
        return value
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + r"\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped.replace('${', chr(92) + '${')}'"


def again(directory: Path) -> str:
    """The command that goes on with this process's sweep in its directory.

    Args:
        directory: of the sweep, which the command names if it did not before.
    """
    script, *arguments = sys.argv
    named = any(argument.startswith("run_dir=") for argument in arguments)
    place = [] if named else [f"run_dir={quoted(str(directory))}"]
    return shlex.join(["python", script, *arguments, *place])
