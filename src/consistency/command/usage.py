"""What `--help` prints: experiments or tasks, a line each, then groups, then how to see the config."""

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence

from consistency.command.misread import added_groups, entry_groups
from consistency.files.configs import options
from consistency.files.experiments import options_with_comments
from consistency.process.entry import current_entry, typed_entry

WIDTH = 110
FIRST = {"train": "experiment", "eval": "task"}  # the group that a command line begins with
USE = {
    "train": ("experiment=NAME", "method=NAME data=NAME budget=NAME"),
    "eval": ("[task=NAME] ckpt_path=RUN", "[task=NAME] ckpt_path=FILE as=NAME"),
}


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line is a question; `--hydra-help` is answered by Hydra."""
    return any(argument in ("--help", "-h") for argument in arguments)


def show_help() -> None:
    """Print the help; whoever reads it may leave before its end."""
    try:
        print(usage(), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes when it ends


def usage() -> str:
    """The help of the entry point at work."""
    name = current_entry()
    first = FIRST[name]
    lines = [
        *(" ".join([*typed_entry(), "[-m]", use, "[GROUP=NAME ...] [KEY=VALUE ...]"]) for use in USE[name]),
        "",
        f"{first}=",
        *lines_of(first),
        *(["", "budget=", *lines_of("budget")] if name == "train" else []),
        "",
        "Groups; GROUP=NAME puts another part in place:",
    ]
    signs = dict.fromkeys(entry_groups(name) - {first, "budget"}, "") | dict.fromkeys(added_groups(name), "+")
    width = max(map(len, signs)) + 5
    for group in sorted(signs):
        lines += aligned(f"  {signs[group]}{group}=", ", ".join(options(group)), width)
    return "\n".join([*lines, "", *config_of(first)])


def lines_of(group: str) -> Iterator[str]:
    """A line for each option of a group: its name, and the first comment of its file."""
    found = dict(options_with_comments(group))
    width = max(map(len, found)) + 4
    for name, comment in found.items():
        yield f"  {name:<{width - 2}}{comment}".rstrip()


def aligned(name: str, text: str, width: int) -> list[str]:
    """A name, and beside it a text on as many lines as it takes."""
    wrapped = textwrap.wrap(text, WIDTH - width)
    return [f"{name if i == 0 else '':<{width}}{line}" for i, line in enumerate(wrapped)]


def config_of(first: str) -> list[str]:
    """How to see the config."""
    command = f"  {' '.join(typed_entry())} {first}=NAME"
    ways = {
        f"{command} --cfg job": "all keys and values; --resolve fills in references",
        f"{command} --cfg job --package KEY": "those of a section",
        f"{command} --info defaults-tree": "the files it is made of",
    }
    width = max(map(len, ways)) + 3
    return [
        "The config of a command, without running it:",
        *(f"{way:<{width}}{what}" for way, what in ways.items()),
        "A misspelt key is answered with the nearest one; --hydra-help has Hydra's own options.",
    ]
