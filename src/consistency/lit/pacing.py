"""Calls of networks outside training in portions of a batch, with a progress update after each portion."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from consistency.model.condition import given_label
from consistency.model.maps import Map, one_time
from consistency.model.portions import Portions, portion
from consistency.watch import tick


class Shaped(Protocol):
    """Data with the shape of one encoded sample and a number of classes, such as a `DataModule`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded sample: (C, H, W) or (D,)."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes; 0 for none."""
        ...


def uncounted(samples: int) -> None:
    """Update the progress after a network call without counting its samples as pieces."""
    tick()


def paced(
    f: Callable[..., Tensor], data: Shaped, done: Callable[[int], None] = tick, most: int | None = None
) -> Callable[..., Tensor]:
    """f as a function that splits a batch into portions, each of which takes seconds on a CPU.

    Args:
        f: a map in evaluation mode, or a closed form, which is called with the whole batch.
        data: of the run, for the shape of samples.
        done: called after each portion with its number of samples.
        most: largest number of samples in a portion; None to measure it.
    """
    if most is None:
        most = largest(f, data) if isinstance(f, Map) else 2**31
    return Portions(f, most, done)


def largest(f: Map, data: Shaped) -> int:
    """The number of samples in a portion, measured by a call of the network."""
    like = next(f.parameters())
    x = torch.zeros(1, *data.shape, dtype=like.dtype, device=like.device)
    label = torch.zeros(1, dtype=torch.long, device=like.device) if data.classes else None
    c = given_label(label)
    return portion(f, lambda: one_time(f)(x, 1.0, c), like.device)
