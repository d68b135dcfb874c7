"""Lines for the user that are no mistakes."""

import sys

from consistency.errors import strip_controls
from consistency.process.rank import is_first


def notice(line: str) -> None:
    """Print a line on standard error, on the first process of a group, whoever has started it."""
    if is_first():
        print(strip_controls(line), file=sys.stderr, flush=True)
