"""What a user can mend, said in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake outside this code. The message names the key or file, and what to do about it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`name` completed to a remedy: the closest known name, or the list of all of them."""
    known = sorted(set(known))
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(known)}"
