"""Communication between the processes of one evaluation; with a single process, nothing is exchanged."""

from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def distributed() -> bool:
    """Whether torch.distributed is in use."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 <= rank < world."""
    return dist.get_rank() if distributed() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if distributed() else 1


def everybodys(value: T) -> list[T]:
    """Gather a value from every process; returns the list by rank on each process."""
    if not distributed():
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def undeal(dealt: list[list[T]]) -> list[T]:
    """Restore the order of pieces that went to the processes in turn (0, 1, …, W-1, 0, …).

    Args:
        dealt: the pieces of each process, by rank.
    """
    nobody = object()
    return [piece for piece in chain(*zip_longest(*dealt, fillvalue=nobody)) if piece is not nobody]  # type: ignore[misc]


def from_first(make: Callable[[], T]) -> T:
    """Call `make` on the first process and return its result on each; an exception is raised on each, too."""
    if not distributed():
        return make()
    result: list[Any] = [None, None]
    if rank() == 0:
        try:
            result[0] = make()
        except Exception as error:
            result[1] = error
    dist.broadcast_object_list(result)
    if result[1] is not None:
        raise result[1]
    return result[0]
