"""What a user can mend, said in one line."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from os import environ


class UserError(ValueError):
    """A mistake outside this code. The message names the key or file, and what to do about it."""


def notice(line: str) -> None:
    """A line on standard error that is no mistake, by one process of those that one command starts."""
    if environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def at_least(section: str, least: int = 1, **values: int) -> None:
    """Refuse numbers that are too small, by their keys in a section of the config."""
    for name, value in values.items():
        if value < least:
            raise UserError(f"{section}.{name}={value} must be at least {least}")


def close(name: str, known: Iterable[str]) -> str | None:
    """The closest known name, None where none is close."""
    return next(iter(get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """`name` completed to a remedy: the closest known name, or the list of all of them."""
    known = sorted(set(known))
    found = close(name, known)
    return f"did you mean '{found}'?" if found else f"choose one of: {', '.join(known)}"
