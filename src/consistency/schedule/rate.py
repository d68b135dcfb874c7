"""Learning-rate schedules: the factor on the base rate as a pure function of the optimiser step."""

import math
from dataclasses import dataclass
from typing import Protocol

from consistency.errors import at_least


class Rate(Protocol):
    """k -> factor on the base learning rate."""

    def __call__(self, k: int) -> float:
        """Factor at optimiser step k (k = 0 is the first)."""
        ...


@dataclass(frozen=True)
class Flat:
    """Linear warm-up from 1/warmup, then constant: every consistency recipe (warmup 0), and EDM (10 Mimg).

    Args:
        warmup: steps until the base rate is reached.
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        at_least("rate", 0, warmup=self.warmup)

    def __call__(self, k: int) -> float:
        """Factor at step k."""
        return min(1.0, (k + 1) / max(self.warmup, 1))


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine down to zero at K: for short runs.

    Args:
        K: horizon in optimiser steps.
        warmup: steps until the base rate is reached.
    """

    K: int
    warmup: int = 0

    def __post_init__(self) -> None:
        at_least("rate", 1, K=self.K)
        at_least("rate", 0, warmup=self.warmup)

    def __call__(self, k: int) -> float:
        """Factor at step k."""
        if k < self.warmup:
            return (k + 1) / self.warmup
        done = (k - self.warmup) / max(self.K - self.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
