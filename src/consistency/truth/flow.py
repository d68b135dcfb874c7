"""The exact probability flow of a known density; the flows of `consistency.objectives.flow` estimate it."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from consistency.model import solvers
from consistency.model.condition import NONE, Condition


class Solution(Protocol):
    """A density whose probability-flow ODE is known, such as `truth.oracle.Mixture`."""

    def denoise(self, x: Tensor, sigma: Tensor, c: Condition = NONE) -> Tensor:
        """E[x_0 | x_σ = x]."""
        ...

    def solve(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The point at noise level `end` of the trajectory that passes through x at `start`."""
        ...


@dataclass(frozen=True)
class ExactFlow:
    """The flow without estimation error, for tests and figures.

    Args:
        density: the distribution of the data.
    """

    density: Solution

    def velocity(self, x_t: Tensor, t: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """(x_t - D(x_t, t)) / t."""
        return solvers.slope(self.density.denoise, x_t, t, c)

    def step(self, x_t: Tensor, t: Tensor, r: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """The exact solution at r."""
        return self.density.solve(x_t, t, r)
