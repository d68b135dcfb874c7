"""The command that this process is: which entry point, and how a user types it here.

There are three ways: `python train.py` in a checkout, `consistency-train` and `python -m consistency.train`
where the package is installed.
"""

import sys
from pathlib import Path

ENTRIES = ("train", "eval")
PREFIX = "consistency-"  # of the installed commands
PACKAGE = "consistency."
FILE = Path(__file__)


def current_entry() -> str:
    """The entry point at work, which is the name of its file in configs/ too; `train` where there is none."""
    name = Path(sys.argv[0]).stem.removeprefix(PREFIX)
    return name if name in ENTRIES else ENTRIES[0]


def typed_entry(other: str | None = None) -> list[str]:
    """An entry point as a user types it here, without arguments.

    Args:
        other: `train` or `eval`; None for the one at work.
    """
    name = other or current_entry()
    script = Path(sys.argv[0])
    if script.name.startswith(PREFIX):
        return [f"{PREFIX}{name}"]
    if module() in {f"{PACKAGE}{each}" for each in ENTRIES}:
        return ["python", "-m", f"{PACKAGE}{name}"]
    if script.stem in ENTRIES:
        return ["python", str(script.with_name(f"{name}.py"))]
    in_checkout = (FILE.parents[3] / f"{name}.py").is_file()
    return ["python", f"{name}.py"] if in_checkout else [f"{PREFIX}{name}"]


def entry_name(name: str) -> str:
    """What an entry point is called here in a sentence: train.py, or the installed command."""
    return Path(typed_entry(name)[-1]).name


def program() -> list[str]:
    """What starts the entry point of this process again, without arguments, from any directory."""
    name = module()
    if name is not None and name.startswith(PACKAGE):
        return [sys.executable, "-m", name]
    return [sys.executable, str(Path(sys.argv[0]).absolute())]


def module() -> str | None:
    """The module that `python -m` has begun this process with; None where it was a file."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return None if spec is None else spec.name
