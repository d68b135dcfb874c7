"""Systems and libraries that a run is not safe on.

Libraries may be too old to be given a file: known holes through which a checkpoint or an image runs code.
pyproject.toml asks for at least these versions; an environment that was made by other means may hold others.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version

from consistency.errors import UserError

SAFE = {  # the first version without the hole, and what the hole is
    "lightning": ("2.6.6", "runs code from checkpoints (CVE-2026-58659)"),
    "torch": ("2.10.0", "lets a file of weights corrupt memory (CVE-2026-24747)"),
    "pillow": ("13.0.0", "lets an image corrupt memory (CVE-2026-96639)"),
}


def check_supported() -> None:
    """Refuse Windows, and libraries with a known hole, before they are imported.

    Raises:
        UserError: names the first of them, and what to do.
    """
    if sys.platform == "win32":  # no SIGTERM to save at, no pipes to hold the runs of a sweep by
        raise UserError("Windows is not supported by itself: run this in WSL2, its Linux")
    for name, (safe, hole) in SAFE.items():
        try:
            found = version(name)
        except PackageNotFoundError:  # an import will say so
            continue
        if release(found) < release(safe):
            raise UserError(f"{name} {found} {hole}: pip install -U '{name}>={safe}'")


def release(version: str) -> tuple[int, ...]:
    """The numbers a version begins with, as far as the third: 2.10.0a1+cpu -> (2, 10, 0)."""
    numbers = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
    return tuple(int(number or 0) for number in numbers.groups()) if numbers else ()
