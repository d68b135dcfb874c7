"""Errors that the user can fix, and checks of numbers that raise them."""

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from inspect import signature
from math import inf
from typing import Any, TypeVar

Made = TypeVar("Made")

LARGEST_SEED = 2**63 - 1


class UserError(ValueError):
    """An error that the user can fix. The message is one line, and names the key or file and the remedy."""

    state = "failed"  # state of a run of a sweep that ends with this error


class ArgumentError(UserError):
    """A wrong argument, named without its section of the config, which the builder of the section adds."""


class Spoiled(UserError):  # noqa: N818 - what happened to the run
    """Training with these settings, which are valid, has led to a useless model."""

    state = "diverged"


def strip_controls(text: str) -> str:
    """Text on one line, without control characters such as colours, which a terminal would interpret."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    """Text without control characters, each replaced by a space; other spaces are kept."""
    colourless = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return "".join(c if c.isprintable() else " " for c in colourless)


def at_least(section: str, least: float = 1, **values: float) -> None:
    """Refuse numbers below `least` or not finite; their names are keys of a section of the config."""
    for name, value in values.items():
        if not least <= value < inf:
            raise UserError(f"{section}.{name}={value} must be at least {least}")


def within(section: str, least: float, most: float, **values: float) -> None:
    """Refuse numbers outside [least, most], NaN among them."""
    for name, value in values.items():
        if not least <= value <= most:
            raise UserError(f"{section}.{name}={value} must be at least {least} and at most {most}")


def positive(section: str, **values: float) -> None:
    """Refuse numbers that are not greater than 0, or not finite."""
    for name, value in values.items():
        if not 0 < value < inf:
            raise UserError(f"{section}.{name}={value} must be greater than 0, and finite")


def fraction(section: str, **values: float) -> None:
    """Refuse numbers outside [0, 1), such as a probability of dropout or a decay."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{section}.{name}={value} must be at least 0 and below 1")


def check_option(name: str, value: float, least: float, most: float) -> None:
    """Refuse an option outside [least, most], NaN among them.

    Raises:
        ArgumentError: it is.
    """
    if not isinstance(value, int | float) or not least <= value <= most:
        raise ArgumentError(f"{name}={value} must be at least {least:g} and at most {most:g}")


def check_seed(key: str, seed: int) -> None:
    """Refuse a seed that no generator takes."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{key}={seed} must be 0 or greater, and at most {LARGEST_SEED}")


def check_call(section: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Refuse a function of the config that cannot be called with these arguments."""
    try:
        signature(function).bind(*arguments)
    except TypeError as error:
        raise UserError(f"{section} cannot be used: {error}; choose {section}=NAME anew") from error


def call_configured(section: str, function: Callable[..., Made], *arguments: Any) -> Made:
    """Call a function of the config.

    Raises:
        UserError: it, or a part of it, lacks an argument.
    """
    try:
        return function(*arguments)
    except TypeError as error:
        if "required positional argument" not in str(error):
            raise
        raise UserError(f"{section} cannot be used: {error}; give it a value") from error


def close(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`; None where none is close."""
    return next(iter(get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for a wrong name: the closest known name, or the list of all of them."""
    known = sorted(set(known))
    found = close(name, known)
    return f"did you mean '{found}'?" if found else f"choose one of: {', '.join(known)}"
