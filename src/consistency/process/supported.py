"""Refuses systems and versions of libraries on which a run is not safe.

Old versions of libraries have known vulnerabilities, by which a checkpoint or an image can run code.
pyproject.toml requires at least these versions; an environment that was made by other means may have others.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version

from consistency.errors import UserError

SAFE = {  # the first safe version, and the vulnerability of earlier ones
    "lightning": ("2.6.6", "runs code from checkpoints (CVE-2026-58659)"),
    "torch": ("2.10.0", "lets a file of weights corrupt memory (CVE-2026-24747)"),
    "pillow": ("13.0.0", "lets an image corrupt memory (CVE-2026-96639)"),
}


def check_supported() -> None:
    """Refuse Windows, and libraries with a known vulnerability, before they are imported.

    Raises:
        UserError: names the first of them, and the remedy.
    """
    if sys.platform == "win32":  # it has no SIGTERM to save at, and cannot pass sockets to runs of a sweep
        raise UserError("Windows is not supported by itself: run this in WSL2, its Linux")
    for name, (safe, hole) in SAFE.items():
        try:
            found = version(name)
        except PackageNotFoundError:  # its import raises an error
            continue
        if release(found) < release(safe):
            raise UserError(f"{name} {found} {hole}: pip install -U '{name}>={safe}'")


def release(version: str) -> tuple[int, ...]:
    """The first three numbers of a version: 2.10.0a1+cpu -> (2, 10, 0)."""
    numbers = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
    return tuple(int(number or 0) for number in numbers.groups()) if numbers else ()
