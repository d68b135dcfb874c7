"""Notices for the user that are not errors."""

import sys

from consistency.errors import strip_controls
from consistency.process.rank import is_first


def notice(line: str) -> None:
    """Print a line to stderr, on the first process of a group only."""
    if is_first():
        print(strip_controls(line), file=sys.stderr, flush=True)
