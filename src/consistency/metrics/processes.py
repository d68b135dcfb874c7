"""Several processes that judge together: who is who, and one answer for all."""

from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def distributed() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process among those that evaluate together."""
    return dist.get_rank() if distributed() else 0


def world() -> int:
    """How many they are."""
    return dist.get_world_size() if distributed() else 1


def everybodys(value: T) -> list[T]:
    """The value of every process, by rank, on each."""
    if not distributed():
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def undeal(dealt: list[list[T]]) -> list[T]:
    """Pieces that were dealt to the processes like cards, as they lay before: by rank -> one list."""
    nobody = object()
    return [piece for piece in chain(*zip_longest(*dealt, fillvalue=nobody)) if piece is not nobody]  # type: ignore[misc]


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, on each; if it fails, all fail alike instead of waiting."""
    if not distributed():
        return make()
    said: list[Any] = [None, None]
    if rank() == 0:
        try:
            said[0] = make()
        except Exception as error:
            said[1] = error
    dist.broadcast_object_list(said)
    if said[1] is not None:
        raise said[1]
    return said[0]
