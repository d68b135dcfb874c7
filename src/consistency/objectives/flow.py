"""Where does x_t go next? The only difference between training and distillation.

A flow knows the velocity dx/dσ of the probability-flow ODE at x_t, or an estimate of it.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from consistency.tensor import expand


class Flow(Protocol):
    """The velocity of x_t, and a step along it from t down to r."""

    def velocity(self, x_t: Tensor, t: Tensor, x: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        """dx/dσ [B, ...] at x_t = x + t z, noise level t [B]."""
        ...

    def step(self, x_t: Tensor, t: Tensor, r: Tensor, x: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        """x_r [B, ...] for r [B] below t."""
        ...


@dataclass(frozen=True)
class DataFlow:
    """Consistency training: the one-sample, unbiased velocity E[dx/dσ | x, z] = z (2303.01469, theorem 2)."""

    def velocity(self, x_t: Tensor, t: Tensor, x: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        """z."""
        return z

    def step(self, x_t: Tensor, t: Tensor, r: Tensor, x: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        """x + r z: the same clean image and the same noise, at another level."""
        return x + expand(r, x) * z


class Solution(Protocol):
    """A density whose probability-flow ODE is known, such as `truth.oracle.Mixture`."""

    def denoise(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x_σ = x]."""
        ...

    def solve(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The point at noise level `end` of the trajectory that passes through x at `start`."""
        ...


@dataclass(frozen=True)
class ExactFlow:
    """The closed-form flow of a known density: what the others are estimates of. For tests and figures.

    Args:
        density: the distribution of the data.
    """

    density: Solution

    def velocity(self, x_t: Tensor, t: Tensor, x: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        """(x_t - D(x_t, t)) / t."""
        return (x_t - self.density.denoise(x_t, t, label)) / expand(t, x_t)

    def step(self, x_t: Tensor, t: Tensor, r: Tensor, x: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        """The exact solution at r."""
        return self.density.solve(x_t, t, r)
