"""The names and descriptions of the experiments in configs/."""

from collections.abc import Iterator
from pathlib import Path

from consistency.files.configs import file_of, options


def experiments() -> dict[str, str]:
    """Name of each experiment, for `train.py experiment=NAME` -> its description, one line."""
    return dict(options_with_comments("experiment"))


def options_with_comments(group: str) -> Iterator[tuple[str, str]]:
    """Yield the options of a group, each with the first comment of its file; empty text without one."""
    for name in options(group):
        yield name, first_comment(file_of(f"{group}/{name}"))


def first_comment(file: Path) -> str:
    """The first comment of a config, without Hydra's `# @package`."""
    lines = (line for line in file.read_text("utf-8").splitlines() if line.startswith("# "))
    return next((line[2:] for line in lines if not line.startswith("# @package")), "")
