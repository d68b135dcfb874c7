"""Pairs of noise levels (t, r), 0 <= r < t: the two ends of one step of the probability-flow ODE."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import UserError, at_least, within
from consistency.model.coordinates import Coordinate, times
from consistency.schedule.curriculum import GridSize, Stages
from consistency.schedule.draws import Draws
from consistency.schedule.noise import NoiseLaw, normalised
from consistency.schedule.sigma import karras_grid


class Pairs(Protocol):
    """(n, k, draws) -> t [n], r [n]."""

    @property
    def sigma_min(self) -> float:
        """ε, the lowest level that r can take."""
        ...

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> tuple[Tensor, Tensor]:
        """Noise levels of n pairs at step k, float64, 0 <= r < t."""
        ...

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges [E] at step k -> [E-1]."""
        ...

    def progress(self, k: int) -> dict[str, float]:
        """What of the law changes with the step, by name, for the logger."""
        ...


@dataclass(frozen=True)
class GridPairs:
    """Neighbours of a Karras grid whose fineness follows a curriculum: CT, CD and iCT.

    Args:
        curriculum: step k -> number of grid points N.
        noise: law over σ; cell i is drawn with the mass that the law puts between σ_i and σ_{i+1}.
        sigma_min: ε, lowest point of the grid.
        sigma_max: T, highest point of the grid.
        rho: exponent of the spacing.
    """

    curriculum: GridSize
    noise: NoiseLaw
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        self.grid(2)  # refuses impossible noise levels before anything runs

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> tuple[Tensor, Tensor]:
        """t = σ_{i+1} and r = σ_i, each [n] in float64, with i ~ noise."""
        grid, cdf = cell_distribution(self, self.curriculum(k), device)
        i = torch.searchsorted(cdf, draws.uniform(n, device), right=True).clamp(max=len(grid) - 2)
        return grid[i + 1], grid[i]

    def grid(self, N: int) -> Tensor:
        """The N noise levels, ascending, float64."""
        return karras_grid(N, self.sigma_min, self.sigma_max, self.rho)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges [E] at step k -> [E-1]."""
        grid = self.grid(self.curriculum(k))
        bins = torch.bucketize(grid[1:], edges.double()).clamp(1, len(edges) - 1) - 1
        return torch.zeros(len(edges) - 1, dtype=torch.float64).index_add(0, bins, self.noise.mass(grid))

    def progress(self, k: int) -> dict[str, float]:
        """N(k)."""
        return {"N": self.curriculum(k)}


@lru_cache(maxsize=16)
def cell_distribution(pairs: GridPairs, N: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The grid of N points and the distribution function of its cells, kept while N stays the same."""
    grid = pairs.grid(N)
    return grid.to(device), pairs.noise.mass(grid).cumsum(0).to(device)


@dataclass(frozen=True)
class TimePairs:
    """(u, u - Δu) with u uniform and Δu constant in another coordinate's time: training in isolation.

    In the linear coordinate both points lie on one straight line from data to noise: every step is then off
    by O(Δu²), the whole trajectory by O(Δu).

    Args:
        curriculum: step k -> N; Δu is the (N - 1)-th part of the whole.
        coordinate: whose time.
        sigma_min: lowest noise level, may be 0.
        sigma_max: highest noise level, finite.
    """

    curriculum: GridSize
    coordinate: Coordinate
    sigma_min: float = 0.0
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        within("pairs", 0, 1e6, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        if not 0 <= self.sigma_min < self.sigma_max:
            raise UserError(
                f"sigma.min={self.sigma_min} and sigma.max={self.sigma_max} must satisfy "
                "0 <= sigma.min < sigma.max"
            )

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> tuple[Tensor, Tensor]:
        """t = σ(u) and r = σ(u - Δu), each [n] in float64."""
        low, width, gap = self._times(k)
        u = low + (width - gap) * draws.uniform(n, device)
        t, r = self.coordinate.sigma(u + gap), self.coordinate.sigma(u)
        return t, r

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges [E] at step k -> [E-1]."""
        low, width, gap = self._times(k)
        return normalised(self.coordinate.time(edges.double()).clamp(low + gap, low + width).diff())

    def progress(self, k: int) -> dict[str, float]:
        """N(k)."""
        return {"N": self.curriculum(k)}

    def _times(self, k: int) -> tuple[float, float, float]:
        """The least time, the length of the whole, and Δu."""
        low, high = times(self.coordinate, self.sigma_min, self.sigma_max)
        return low, high - low, (high - low) / (self.curriculum(k) - 1)


@dataclass(frozen=True)
class MappedPairs:
    """t ~ noise and r = t max(0, 1 - (1 + k S(-b t))/q^(stage+1)), S the sigmoid: easy consistency tuning.

    2406.14548, section 3.2, and its code. At first r = 0, where the target is the data; then r/t rises to 1.

    Args:
        curriculum: step -> stage.
        noise: law of t.
        q: the gap shrinks q-fold a stage, q > 1.
        k: how much wider the gap is at small t.
        b: how fast that wears off with t.
    """

    curriculum: Stages
    noise: NoiseLaw
    q: float = 2.0
    k: float = 8.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if not self.q > 1:
            raise UserError(f"pairs.q={self.q} must be greater than 1: the gap shrinks q-fold a stage")
        within("pairs", 1, 1000, q=self.q)
        at_least("pairs", 0, k=self.k, b=self.b)

    @property
    def sigma_min(self) -> float:
        """0: the boundary is the data."""
        return 0.0

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> tuple[Tensor, Tensor]:
        """t and r, each [n] in float64."""
        t = self.noise.sample(n, draws, device)
        return t, t * self.ratio(t, self.curriculum(k))

    def ratio(self, t: Tensor, stage: int) -> Tensor:
        """r/t [n] at a stage."""
        gap = (1 + self.k * (-self.b * t).sigmoid()) / self.q ** (stage + 1)
        return (1 - gap).clamp(min=0)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges [E] -> [E-1]."""
        return self.noise.mass(edges)

    def progress(self, k: int) -> dict[str, float]:
        """The stage."""
        return {"stage": self.curriculum(k)}
