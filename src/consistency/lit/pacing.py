"""Networks outside training: a few samples at a time, with a look at the clock and at signals between."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from consistency.model.condition import given_label
from consistency.model.maps import Map, one_time
from consistency.model.portions import Portions, portion
from consistency.watch import tick


class Shaped(Protocol):
    """What a data set is to a network: the shape of one sample, and how many classes there are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) or (D,), as networks see it."""
        ...

    @property
    def classes(self) -> int:
        """How many, 0 for none."""
        ...


def uncounted(samples: int) -> None:
    """After a network call in a part that does not count samples."""
    tick()


def paced(
    f: Callable[..., Tensor], data: Shaped, done: Callable[[int], None] = tick, most: int | None = None
) -> Callable[..., Tensor]:
    """f, called with no more samples at a time than take seconds on a CPU.

    Args:
        f: a denoiser in evaluation mode; what is no network is called with all samples at once.
        data: of the run, for the shape of samples.
        done: called after each call with its number of samples.
        most: samples of a call, where that is known already.
    """
    if most is None:
        most = largest(f, data) if isinstance(f, Map) else 2**31
    return Portions(f, most, done)


def largest(f: Map, data: Shaped) -> int:
    """Samples that a network takes at a time."""
    like = next(f.parameters())
    x = torch.zeros(1, *data.shape, dtype=like.dtype, device=like.device)
    label = torch.zeros(1, dtype=torch.long, device=like.device) if data.classes else None
    c = given_label(label)
    return portion(f, lambda: one_time(f)(x, 1.0, c), like.device)
