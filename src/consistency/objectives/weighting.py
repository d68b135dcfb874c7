"""How much does each noise level count? Each weight is (t [B], r [B]) -> [B], in float64."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Weight(Protocol):
    """(t, r) -> [B]."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        """Weight of each pair."""
        ...


@dataclass(frozen=True)
class Uniform:
    """λ = 1: every published run of 2303.01469."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        """1 for each pair."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class InverseGap:
    """λ = 1/(t - r): iCT's 1/(σ_{i+1} - σ_i) (2310.14189, section 3.3)."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        """1/(t - r) for each pair."""
        return 1 / (t - r)


@dataclass(frozen=True)
class EDMWeight:
    """λ(σ) = (σ² + σ_data²)/(σ σ_data)² = 1/c_out²: unit weight on F (2206.00364, table 1).

    Args:
        sigma_data: standard deviation of the data.
    """

    sigma_data: float = 0.5

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        """λ(t) for each pair."""
        return (t**2 + self.sigma_data**2) / (t * self.sigma_data) ** 2
