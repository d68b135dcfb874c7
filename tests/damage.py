"""Flipped bits and cut ends of a file, and what comes of reading it."""

import random
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consistency.errors import UserError

REFUSED, AGAIN, EQUAL, OTHER = "refused in one line", "made again", "loaded equal to the bit", "DIFFERENT"
LONG = "refused in many lines"


@dataclass
class Format:
    """A file, and how it is read.

    Args:
        files: of the format; one is damaged at a time.
        read: what is compared: plain data and tensors, with `AGAIN` first where it was made anew.
        same: whether two readings are equal.
    """

    files: list[Path]
    read: Callable[[], Any]
    same: Callable[[Any, Any], bool]


def flipped(content: bytes, draws: random.Random) -> bytes:
    """One bit turned, anywhere."""
    place, bit = draws.randrange(len(content)), draws.randrange(8)
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def cut(content: bytes, draws: random.Random) -> bytes:
    """The end missing."""
    return content[: draws.randrange(len(content))]


def outcomes(kind: Format, flips: int, cuts: int, seed: int = 0) -> Counter[str]:
    """How often each outcome came about; every file is put back."""
    draws, found = random.Random(seed), Counter[str]()
    good = deepcopy(kind.read())  # what maps a file would change with it
    for harm in [flipped] * flips + [cut] * cuts:
        weights = [path.stat().st_size for path in kind.files]
        (path,) = draws.choices(kind.files, weights)
        content = path.read_bytes()
        path.write_bytes(harm(content, draws))
        found[outcome(kind, good)] += 1
        path.write_bytes(content)
    return found


def outcome(kind: Format, good: Any) -> str:
    """What comes of reading it now. Any exception but `UserError` is a fault of ours."""
    try:
        again, value = kind.read()
    except UserError as error:
        return REFUSED if "\n" not in str(error) else LONG
    if not kind.same(value, good[1]):
        return OTHER
    return AGAIN if again else EQUAL
