"""Types and ranges of single values in a file, and what is said of the first that is wrong."""

from typing import Any

from torch import Tensor

LARGEST = 2**53  # a count
HUGE = 1e308  # about the largest number of float64
MOST = 100_000  # values in a tree
HIGHEST = 1e6  # noise level
MOST_LEVELS = 10_000  # of a sampler
LONGEST = 1000  # characters of a text


class MalformedError(ValueError):
    """What is wrong with the content of a file, to be read after its name."""


def expect(name: str, value: Any, kind: Any) -> None:
    """Refuse a value of another type."""
    if not isinstance(value, kind):
        raise MalformedError(f"is malformed: {name[:100]} is of type {type(value).__name__}")


def check_count(name: str, value: Any) -> None:
    """Refuse what is not an integer from 0 to 2^53; booleans are none."""
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise MalformedError(f"is malformed: {name}={brief_value(value)} is no count")


def check_number(name: str, value: Any) -> None:
    """Refuse what is not a finite number, or a tensor of one; integers beyond float64 are refused too."""
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not is_finite_number(value):
        raise MalformedError(f"is malformed: {name}={brief_value(value)} is no finite number")


def check_text(name: str, value: Any) -> None:
    """Refuse what is not a string of at most 1000 printable characters."""
    expect(name, value, str)
    if len(value) > LONGEST or not value.isprintable():
        raise MalformedError(f"is malformed: {name} is not a short printable text")


def check_plain(name: str, value: Any) -> None:
    """Containers, strings and numbers, and not very many: a small file can describe a large tree."""
    waiting, seen = [value], 0
    while waiting:
        node, seen = waiting.pop(), seen + 1
        if seen > MOST:
            raise MalformedError(f"is malformed: {name} has more than {MOST:,} values")
        if isinstance(node, dict):
            for key in node:
                expect(f"the key {key!r:.40} in {name}", key, str | int | float)
            waiting.extend(node.values())
        elif isinstance(node, list | tuple):
            waiting.extend(node)
        elif type(node) is int and abs(node) >= HUGE:
            raise MalformedError(f"is malformed: {name} holds {brief_value(node)}")
        elif not (node is None or isinstance(node, str | int | float)):
            raise MalformedError(f"is malformed: {name} holds a {type(node).__name__}")


def check_levels(name: str, value: Any) -> list[float]:
    """Noise levels of a sampler: numbers above 0 and up to 1e6, none above the one before it.

    Raises:
        MalformedError: it is no such list, or has more than 10,000 levels.
    """
    expect(name, value, list)
    falling = all(type(sigma) in (int, float) and 0 < sigma <= HIGHEST for sigma in value)
    if not (falling and 0 < len(value) <= MOST_LEVELS and value == sorted(value, reverse=True)):
        raise MalformedError(f"is malformed: {name[:100]} is no list of falling noise levels")
    return [float(sigma) for sigma in value]


def is_finite_number(value: Any) -> bool:
    """Whether a value is an integer or a float that float64 holds; booleans are neither."""
    return type(value) in (int, float) and abs(value) < HUGE


def brief_value(value: Any) -> str:
    """A value in at most 40 characters; Python refuses to write integers of more than 4300 digits."""
    if type(value) is int and abs(value) >= 10**40:
        return f"an integer of {value.bit_length()} bits"
    return f"{value!r:.40}"
