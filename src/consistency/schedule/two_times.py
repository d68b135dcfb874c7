"""Laws of the two noise levels (t, s), 0 <= s <= t, of a flow map, and of a level r between them."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import UserError, within
from consistency.schedule.draws import Draws
from consistency.schedule.noise import NoiseLaw


class TwoTimes(Protocol):
    """(n, k, draws) -> t [n], s [n]."""

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> tuple[Tensor, Tensor]:
        """Noise levels of n samples at step k, float64, 0 <= s <= t; s = t where `on_diagonal` says so."""
        ...

    def on_diagonal(self, n: int) -> Tensor:
        """Which of n samples have s = t, bool [n]: known without drawing, so that shapes do not change."""
        ...

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges [E] at step k -> [E-1], float64."""
        ...

    def joint_mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability of each pair of cells -> [E-1 of t, E-1 of s], float64; s = 0 is in the first."""
        ...


@dataclass(frozen=True)
class SortedTimes:
    """Two independent draws, the larger of which is t (2505.13447, section 4.3); a share of s = t and s = 0.

    The draws are sorted, not clamped: clamping would change the law of t. Samples of each share are spread
    evenly over the batch: with diagonal = 1/4, every fourth one. So every process of a run, and every part of
    an accumulated batch, has the same share.

    Args:
        first: law of one draw.
        second: law of the other.
        diagonal: share of s = t, where a flow map is a denoiser.
        zero: share of s = 0 among the others, where it is a consistency function.
    """

    first: NoiseLaw
    second: NoiseLaw
    diagonal: float = 0.25
    zero: float = 0.0

    def __post_init__(self) -> None:
        within("times", 0, 1, diagonal=self.diagonal, zero=self.zero)

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> tuple[Tensor, Tensor]:
        """t and s, each [n] in float64."""
        a, b = self.first.sample(n, draws, device), self.second.sample(n, draws, device)
        t, s = torch.maximum(a, b), torch.minimum(a, b)
        diagonal = self.on_diagonal(n)
        at_zero = torch.zeros_like(diagonal)
        at_zero[~diagonal] = spread_evenly(self.zero, int((~diagonal).sum()))
        s = torch.where(at_zero.to(device), torch.zeros_like(s), s)
        return t, torch.where(diagonal.to(device), t, s)

    def on_diagonal(self, n: int) -> Tensor:
        """Which of n samples have s = t, bool [n]."""
        return spread_evenly(self.diagonal, n)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges [E] -> [E-1]: F(t) = F_1(t) F_2(t)."""
        return self._joint_of_draws(edges).sum(1)

    def joint_mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability of each pair of cells -> [E-1 of t, E-1 of s]."""
        joint = self._joint_of_draws(edges)
        of_t = joint.sum(1)
        mass = (1 - self.diagonal) * (1 - self.zero) * joint + self.diagonal * of_t.diag()
        mass[:, 0] += (1 - self.diagonal) * self.zero * of_t
        return mass

    def _joint_of_draws(self, edges: Tensor) -> Tensor:
        """The same of the sorted draws, before any share is moved."""
        a, b = self.first.mass(edges), self.second.mass(edges)
        either = torch.outer(a, b) + torch.outer(b, a)
        return either.tril(-1) + (a * b).diag()


@dataclass(frozen=True)
class ClampedTimes:
    """t and s of laws of their own, s below t: the published code of MeanFlow's second law, and SoFlow's.

    Where s falls above t it is put just below it, which changes the law of s alone.

    Args:
        first: law of t.
        second: law of s.
        diagonal: share of s = t.
        margin: least 1 - s/t of the others, above 0.
    """

    first: NoiseLaw
    second: NoiseLaw
    diagonal: float = 0.25
    margin: float = 1e-4

    def __post_init__(self) -> None:
        within("times", 0, 1, diagonal=self.diagonal)
        within("times", 1e-9, 0.5, margin=self.margin)

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> tuple[Tensor, Tensor]:
        """t and s, each [n] in float64."""
        t, s = self.first.sample(n, draws, device), self.second.sample(n, draws, device)
        s = torch.minimum(s, (1 - self.margin) * t)
        return t, torch.where(self.on_diagonal(n).to(device), t, s)

    def on_diagonal(self, n: int) -> Tensor:
        """Which of n samples have s = t, bool [n]."""
        return spread_evenly(self.diagonal, n)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges [E] -> [E-1]."""
        return self.first.mass(edges)

    def joint_mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability of each pair of cells -> [E-1 of t, E-1 of s]; clamped s are in the cell of t."""
        of_t = self.first.mass(edges)
        joint = torch.outer(of_t, self.second.mass(edges))
        clamped = joint.triu(1).sum(1)
        return (1 - self.diagonal) * (joint.tril() + clamped.diag()) + self.diagonal * of_t.diag()


def spread_evenly(share: float, n: int) -> Tensor:
    """Which of n places belong to a share, bool [n]: as many as fit, as far apart as they can be."""
    steps = torch.arange(n + 1, dtype=torch.float64) * share + 1e-9  # 3 * (1/3) must count as 1
    return steps.floor().diff() > 0


class Gap(Protocol):
    """(n, k, draws) -> how far r lies on the way from t down to s: 0 at t, 1 at s."""

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> Tensor:
        """Fractions [n], float64, greater than 0 and at most 1."""
        ...

    def progress(self, k: int) -> dict[str, float]:
        """What of it changes with the step, by name, for the logger."""
        ...


@dataclass(frozen=True)
class FixedGap:
    """The same fraction for every sample and step: 1/2 for shortcut models (2410.12557).

    Args:
        fraction: of the way from t to s, above 0 and at most 1.
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        within("gap", 1e-6, 1, fraction=self.fraction)

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> Tensor:
        """The fraction, n times."""
        return torch.full((n,), self.fraction, dtype=torch.float64, device=device)

    def progress(self, k: int) -> dict[str, float]:
        """Nothing changes with the step."""
        return {}


@dataclass(frozen=True)
class UniformGap:
    """Uniform on (0, 1]: any level between t and s (2310.02279; 2505.18825)."""

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> Tensor:
        """Fractions [n]."""
        return 1 - draws.uniform(n, device)

    def progress(self, k: int) -> dict[str, float]:
        """Nothing changes with the step."""
        return {}


class FallingGap(ABC):
    """A fraction that is the same for all samples, and falls with the step."""

    @abstractmethod
    def fraction(self, k: int) -> float:
        """ρ(k), from 1 down; 0 where the limit of a derivative is reached."""

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> Tensor:
        """The fraction of step k, n times."""
        return torch.full((n,), self.fraction(k), dtype=torch.float64, device=device)

    def progress(self, k: int) -> dict[str, float]:
        """ρ(k)."""
        return {"gap": self.fraction(k)}


@dataclass(frozen=True)
class ExponentialGap(FallingGap):
    """ρ(k) = first (last/first)^(k/K): SoFlow's l(k) (2512.15657).

    Args:
        first: at step 0, at most 1.
        last: from step K on, above 0.
        K: horizon in optimiser steps.
    """

    first: float = 1.0
    last: float = 3.125e-4
    K: int = 800_000

    def __post_init__(self) -> None:
        within("gap", 1, 10**9, K=self.K)
        if not 0 < self.last <= self.first <= 1:
            raise UserError(
                f"gap.first={self.first} and gap.last={self.last} must satisfy 0 < last <= first <= 1"
            )

    def fraction(self, k: int) -> float:
        """ρ(k)."""
        return self.first * (self.last / self.first) ** min(k / self.K, 1.0)


@dataclass(frozen=True)
class SigmoidGap(FallingGap):
    """α(k) = 1 - S(γ (k/K - 1/2)), 1 or 0 once it is within `floor` of them: α-Flow (2510.20771).

    Until about 29 % of K it is flow matching, from 71 % on MeanFlow, with the published γ and floor.

    Args:
        K: horizon in optimiser steps.
        gamma: γ, how steeply it falls.
        floor: what counts as the limit, above 0 and below 1/2.
    """

    K: int = 800_000
    gamma: float = 25.0
    floor: float = 0.005

    def __post_init__(self) -> None:
        within("gap", 1, 10**9, K=self.K)
        within("gap", 1, 1000, gamma=self.gamma)
        within("gap", 1e-6, 0.49, floor=self.floor)

    def fraction(self, k: int) -> float:
        """α(k)."""
        alpha = 1 / (1 + math.exp(self.gamma * (min(k / self.K, 1.0) - 0.5)))
        return 0.0 if alpha < self.floor else 1.0 if alpha > 1 - self.floor else alpha
