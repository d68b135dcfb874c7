"""Pairs of noise levels (t, r), 0 <= r < t: the two ends of one step of the probability-flow ODE."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import UserError
from consistency.schedule.curriculum import Curriculum
from consistency.schedule.draws import Draws
from consistency.schedule.noise import NoiseLaw


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


def karras_grid(N: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """N noise levels ascending from sigma_min to sigma_max, equally spaced in σ^(1/rho) (2206.00364, eq. 5).

    Float64: in float32 the gaps of a fine grid are off by 1e-4 (facts gathered in tests/test_schedule.py).
    """
    if not 0 < sigma_min < sigma_max:
        raise UserError(
            f"sigma.min={sigma_min} and sigma.max={sigma_max} must satisfy 0 < sigma.min < sigma.max"
        )
    if not rho > 0:
        raise UserError(f"sigma.rho={rho} must be greater than 0")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    grid = torch.linspace(low, high, N, dtype=torch.float64) ** rho
    grid[0], grid[-1] = sigma_min, sigma_max  # the boundary condition is met bitwise
    return grid


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

    curriculum: Curriculum
    noise: NoiseLaw
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        self.grid(2)  # refuses impossible noise levels before anything runs

    def __call__(self, n: int, k: int, draws: Draws, device: torch.device) -> tuple[Tensor, Tensor]:
        """t = σ_{i+1} and r = σ_i, each [n] in float64, with i ~ noise."""
        grid, cdf = cells(self, self.curriculum(k), device)
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
def cells(pairs: GridPairs, N: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The grid of N points and the distribution function of its cells, kept while N stays the same."""
    grid = pairs.grid(N)
    return grid.to(device), pairs.noise.mass(grid).cumsum(0).to(device)
