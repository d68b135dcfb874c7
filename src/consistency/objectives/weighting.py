"""How much does each noise level count? Each weight is (t [B], r [B]) -> [B], in float64."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from consistency.model.coefficients import Precond


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
class UnitOutput:
    """λ = 1/c_out(t)²: the loss on D becomes the mean square error of the network's own output F.

    One weight for every teacher: EDM's λ = (σ² + σ_data²)/(σ σ_data)² (2206.00364, eq. 8), the L_simple of a
    DDPM (2006.11239, eq. 14), the regression on the velocity of a flow (2210.02747, eq. 23).

    Args:
        precond: the teacher's.
    """

    precond: Precond

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        """λ(t) for each pair."""
        return self.precond(t).out ** -2
