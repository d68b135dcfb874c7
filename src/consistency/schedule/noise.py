"""Noise laws over σ: continuous samples, and the exact mass on the cells of a grid."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import positive, within
from consistency.model.coordinates import DDPM, Coordinate, times
from consistency.schedule.draws import Draws
from consistency.schedule.sigma import Sigma


class NoiseLaw(Protocol):
    """A distribution over σ."""

    def sample(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        """σ [n], float64."""
        ...

    def mass(self, grid: Tensor) -> Tensor:
        """Probability of each cell of an ascending grid [N] -> [N-1], float64, summing to one."""
        ...


@dataclass(frozen=True)
class LogNormal:
    """ln σ ~ N(mean, std²): EDM's law (-1.2, 1.2; 2206.00364) and iCT's (-1.1, 2.0; 2310.14189, eq. 10).

    In the linear coordinate it is the logit-normal law of u (2403.03206), for logit u = ln σ.
    """

    mean: float = -1.1
    std: float = 2.0

    def __post_init__(self) -> None:
        positive("noise", std=self.std)
        within("noise", -20, 20, mean=self.mean, std=self.std)  # e^20 is 5e8

    def sample(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        """σ [n] by inversion of the distribution function, float64."""
        u = draws.uniform(n, device).clamp(2.0**-53, 1 - 2.0**-53)
        return (self.mean + self.std * torch.special.ndtri(u)).exp()

    def mass(self, grid: Tensor) -> Tensor:
        """p(i) ∝ erf((ln σ_{i+1} - P_mean)/(√2 P_std)) - erf((ln σ_i - P_mean)/(√2 P_std)), float64."""
        cdf = torch.erf((grid.double().log() - self.mean) / (math.sqrt(2) * self.std))
        return normalised(cdf.diff())


@dataclass(frozen=True)
class UniformCells:
    """Every cell of the grid alike (2303.01469, algorithms 2 and 3); continuously, uniform in σ^(1/rho).

    Args:
        sigma_min: lowest noise level.
        sigma_max: highest noise level.
        rho: the spacing's exponent: cells of a Karras grid are equally wide in σ^(1/rho).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        Sigma(self.sigma_min, self.sigma_max, self.rho)

    def sample(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        """σ [n], float64."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + (high - low) * draws.uniform(n, device)) ** self.rho

    def mass(self, grid: Tensor) -> Tensor:
        """1/(N-1) for each cell, float64."""
        return normalised(torch.ones(len(grid) - 1, dtype=torch.float64, device=grid.device))


@dataclass(frozen=True)
class UniformTime:
    """Uniform in the time of another coordinate: flow matching's u ~ U(0, 1), a continuous VP's τ.

    Args:
        coordinate: whose time.
        sigma_min: lowest noise level.
        sigma_max: highest noise level.
    """

    coordinate: Coordinate
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        Sigma(self.sigma_min, self.sigma_max)

    def sample(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        """σ [n], float64."""
        low, high = times(self.coordinate, self.sigma_min, self.sigma_max)
        return self.coordinate.sigma(low + (high - low) * draws.uniform(n, device))

    def mass(self, grid: Tensor) -> Tensor:
        """The share of time that a trajectory spends in each cell, float64."""
        low, high = times(self.coordinate, self.sigma_min, self.sigma_max)
        return normalised(self.coordinate.time(grid.double()).clamp(low, high).diff())


@dataclass(frozen=True)
class Levels:
    """One of the T levels of a discrete chain, all alike (2006.11239, algorithm 1).

    Args:
        coordinate: the chain.
    """

    coordinate: DDPM

    def sample(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        """σ [n], float64."""
        levels = self.coordinate.levels.to(device)
        return levels[(draws.uniform(n, device) * len(levels)).long()]

    def mass(self, grid: Tensor) -> Tensor:
        """The share of the levels in each cell, those outside counted to the outermost; float64."""
        cell = torch.bucketize(self.coordinate.levels.to(grid.device), grid.double()).clamp(1, len(grid) - 1)
        return normalised(torch.bincount(cell - 1, minlength=len(grid) - 1).double())


def normalised(mass: Tensor) -> Tensor:
    """Mass divided by its sum."""
    return mass / mass.sum()
