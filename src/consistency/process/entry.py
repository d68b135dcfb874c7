"""The command of this process: its entry point, and how a user types it.

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
    """The entry point of this process, also the name of its file in configs/; `train` where there is none."""
    name = Path(sys.argv[0]).stem.removeprefix(PREFIX)
    return name if name in ENTRIES else ENTRIES[0]


def typed_entry(other: str | None = None) -> list[str]:
    """An entry point as a user types it, without arguments.

    Args:
        other: `train` or `eval`; None for that of this process.
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
    """The name of an entry point in messages: train.py, or the installed command."""
    return Path(typed_entry(name)[-1]).name


def program() -> list[str]:
    """The command that starts the entry point of this process again from any directory, without arguments."""
    name = module()
    if name is not None and name.startswith(PACKAGE):
        return [sys.executable, "-m", name]
    return [sys.executable, str(Path(sys.argv[0]).absolute())]


def module() -> str | None:
    """The module that `python -m` has started; None where a file was started."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return None if spec is None else spec.name
