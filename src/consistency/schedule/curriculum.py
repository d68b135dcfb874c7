"""Curricula: how fine the pairs are at optimiser step k. Pure: a resume needs no state."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from consistency.errors import UserError, within
from consistency.schedule.sigma import MOST_POINTS

MOST_STAGES = 100  # each divides the gap by q, and the hundredth power of q is near the end of float64


class Curriculum(Protocol):
    """k -> N."""

    def __call__(self, k: int) -> int:
        """Number of grid points (not intervals) at step k."""
        ...


class GridSize(ABC):
    """A curriculum whose value is a number of grid points, at least 2, as pairs of neighbours need it."""

    @abstractmethod
    def __call__(self, k: int) -> int:
        """N at step k."""


@dataclass(frozen=True)
class Constant(GridSize):
    """The same N throughout: consistency distillation (2303.01469, algorithm 2)."""

    N: int = 18

    def __post_init__(self) -> None:
        within("curriculum", 2, MOST_POINTS, N=self.N)

    def __call__(self, k: int) -> int:
        """N."""
        return self.N


@dataclass(frozen=True)
class SquareRoot(GridSize):
    """N(k) = ceil(sqrt(k/K ((s1+1)² - s0²) + s0²) - 1) + 1 (2303.01469, app. C).

    Args:
        s0: grid points at the start.
        s1: intervals at the end: N(K) = s1 + 1.
        K: horizon in optimiser steps.
    """

    s0: int = 2
    s1: int = 150
    K: int = 800_000

    def __post_init__(self) -> None:
        check_stages(self.s0, self.s1, self.K, needed=1, least=2)

    def __call__(self, k: int) -> int:
        """N(k), constant from K on."""
        k = min(k, self.K)
        # In integers, as k and K are: in floats the root of a perfect square may land above itself.
        square = k * ((self.s1 + 1) ** 2 - self.s0**2) + self.s0**2 * self.K  # K times what is under the root
        root = math.isqrt(square // self.K)
        return root + (root**2 * self.K < square)  # the ceiling; -1 and +1 cancel


@dataclass(frozen=True)
class Doubling(GridSize):
    """N(k) = min(s0 2^floor(k/K'), s1) + 1, K' = floor(K / (log2 floor(s1/s0) + 1)) (2310.14189, eq. 7).

    Args:
        s0: intervals at the start.
        s1: intervals at the end.
        K: horizon in optimiser steps; at least one step a stage.
    """

    s0: int = 10
    s1: int = 1280
    K: int = 400_000

    def __post_init__(self) -> None:
        check_stages(self.s0, self.s1, self.K, needed=math.ceil(self.stages), least=1)

    @property
    def stages(self) -> float:
        """log2 floor(s1/s0) + 1."""
        return math.log2(max(self.s1 // max(self.s0, 1), 1)) + 1

    def __call__(self, k: int) -> int:
        """N(k), constant from the last stage on."""
        K_stage = math.floor(self.K / self.stages)
        doublings = min(k // K_stage, math.ceil(self.stages))  # no power larger than is needed to reach s1
        return min(self.s0 * 2**doublings, self.s1) + 1


@dataclass(frozen=True)
class Stages:
    """S stages of equal length, counted from 0: how far the ends of mapped pairs have shrunk (2406.14548).

    Args:
        S: number of stages.
        K: horizon in optimiser steps; at least one step a stage.
    """

    S: int = 8
    K: int = 200_000

    def __post_init__(self) -> None:
        within("curriculum", 1, MOST_STAGES, S=self.S)
        if not self.S <= self.K:
            raise UserError(f"curriculum.S={self.S} must be at least 1 and at most curriculum.K={self.K}")

    def __call__(self, k: int) -> int:
        """The stage at step k, constant from K on."""
        return min(k * self.S // self.K, self.S - 1)


def check_stages(s0: int, s1: int, K: int, needed: int, least: int) -> None:
    """Refuse a curriculum that cannot run: too few grid points or too many, or fewer steps than stages."""
    if not least <= s0 <= s1:
        raise UserError(f"curriculum.s0={s0} and curriculum.s1={s1} must satisfy {least} <= s0 <= s1")
    within("curriculum", least, MOST_POINTS, s1=s1)
    if needed > K:
        raise UserError(
            f"curriculum.K={K} is smaller than the {needed} stages from s0={s0} to s1={s1}: "
            "raise trainer.max_steps (K follows it) or lower curriculum.s1"
        )
