"""What there is to train, from the configs that come along."""

from collections.abc import Iterator
from pathlib import Path

from consistency.files.configs import file_of, options


def experiments() -> dict[str, str]:
    """Names of the experiments for `train.py experiment=NAME`, each with what it is, in a line."""
    return dict(options_with_comments("experiment"))


def options_with_comments(group: str) -> Iterator[tuple[str, str]]:
    """The options of a group of configs, each with the first comment of its file; empty without one."""
    for name in options(group):
        yield name, first_comment(file_of(f"{group}/{name}"))


def first_comment(file: Path) -> str:
    """The first comment of a file of configs/ that is for people."""
    lines = (line for line in file.read_text("utf-8").splitlines() if line.startswith("# "))
    return next((line[2:] for line in lines if not line.startswith("# @package")), "")
