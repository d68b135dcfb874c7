"""Every random number of a run, as a function of what it is for.

A step's numbers are drawn for the whole global batch from a generator keyed by (seed, step), and each process
takes its slice: a resumed run, and a run on any number of processes, gets the very same numbers.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

# What a stream of numbers is for: the second word of its key.
IMAGES, STEPS, DROPOUT, ORDER, FLIPS, ROLLOUTS, REFERENCES = range(7)


class Draws(Protocol):
    """A source of random numbers for a batch of samples."""

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers in the shape, dtype and on the device of x [B, ...]."""
        ...

    def uniform(self, n: int, device: torch.device) -> Tensor:
        """Uniform numbers on [0, 1), float64 [n]."""
        ...


def key(*parts: int) -> int:
    """A 31-bit seed for the stream that these numbers name.

    Streams that differ in the last number alone never collide: torch's CPU generator keeps 32 bits of its
    seed, so the last number is added rather than hashed.
    """
    *stream, index = parts
    return (int(np.random.SeedSequence(stream).generate_state(1)[0]) + index) % 2**31


class StepDraws:
    """The numbers of one training step, drawn for the global batch and sliced by rank.

    Args:
        parts: names of the step: seed, part of the step (when gradients are accumulated), number of the step.
        rank: this process, 0 <= rank < world.
        world: number of processes that share the step.
    """

    def __init__(self, *parts: int, rank: int = 0, world: int = 1) -> None:
        self.seed, self.rank, self.world = key(*parts), rank, world
        self._generators: dict[torch.device, torch.Generator] = {}

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers shaped like x [B, ...], the slice of this rank."""
        shape = (self.world * len(x), *x.shape[1:])
        z = torch.randn(shape, generator=self._on(x.device), device=x.device, dtype=x.dtype)
        return self._slice(z, len(x))

    def uniform(self, n: int, device: torch.device) -> Tensor:
        """Uniform numbers on [0, 1) in float64 [n], the slice of this rank."""
        u = torch.rand(self.world * n, generator=self._on(device), device=device, dtype=torch.float64)
        return self._slice(u, n)

    def _slice(self, drawn: Tensor, n: int) -> Tensor:
        return drawn[self.rank * n : (self.rank + 1) * n]

    def _on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]


class ImageDraws:
    """The numbers of single samples: sample i is the same in every batch, on every number of processes.

    Args:
        seed: the evaluation's seed.
        index: the number of each sample of the batch.
    """

    def __init__(self, seed: int, index: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(key(seed, IMAGES, i)) for i in index]

    def fork(self) -> "ImageDraws":
        """A source that goes on with the same numbers, leaving this one where it is."""
        twin = ImageDraws(0, [])
        twin._generators = [g.clone_state() for g in self._generators]
        return twin

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers shaped like x [B, ...], drawn on the CPU sample by sample."""
        z = torch.stack([torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in self._generators])
        return z.to(x.device)

    def uniform(self, n: int, device: torch.device) -> Tensor:
        """One uniform number on [0, 1) per sample, float64 [n]."""
        u = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self._generators[:n]])
        return u.to(device)
