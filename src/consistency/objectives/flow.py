"""Where does x_t go next? The only difference between training and distillation.

A flow knows the velocity dx/dσ of the probability-flow ODE at x_t, or an estimate of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from consistency.data.loader import Excerpt
from consistency.errors import within
from consistency.model import solvers
from consistency.model.condition import Condition
from consistency.model.maps import DenoiserLike
from consistency.model.solvers import Solver
from consistency.tensor import expand


class Flow(Protocol):
    """The velocity of x_t, and a step along it from t down to r."""

    def velocity(self, x_t: Tensor, t: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """dx/dσ [B, ...] at x_t = x + t z, noise level t [B]."""
        ...

    def step(self, x_t: Tensor, t: Tensor, r: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """x_r [B, ...] for r [B] below t."""
        ...


class TrainingFlow(Protocol):
    """What consistency training takes: a flow, once it has been given what it needs of the data."""

    def given(self, some: Callable[[int], Excerpt]) -> Flow:
        """The flow of one step; some(n) are n samples of the data, or all of them where they are no more."""
        ...


@dataclass(frozen=True)
class DataFlow:
    """Consistency training: the one-sample, unbiased velocity E[dx/dσ | x, z] = z (2303.01469, theorem 2)."""

    def given(self, some: Callable[[int], Excerpt]) -> "DataFlow":
        """Itself: the batch is all it needs."""
        return self

    def velocity(self, x_t: Tensor, t: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """z."""
        return z

    def step(self, x_t: Tensor, t: Tensor, r: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """x + r z: the same clean image and the same noise, at another level."""
        return x + expand(r, x) * z


@dataclass(frozen=True, eq=False)
class TeacherFlow:
    """Distillation: the velocity of a frozen teacher, followed by a solver (2303.01469, algorithm 2).

    Not a module, so that whoever holds it neither trains, averages, saves nor synchronises the teacher.

    Args:
        teacher: D(x, σ), in evaluation mode.
        solver: one step from t to r; the papers take Heun's.
        substeps: steps between t and r, evenly spaced in σ^(1/7).
    """

    teacher: DenoiserLike
    solver: Solver = solvers.heun
    substeps: int = 1

    def __post_init__(self) -> None:
        within("flow", 1, 1000, substeps=self.substeps)

    @torch.no_grad()
    def velocity(self, x_t: Tensor, t: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """(x_t - D(x_t, t)) / t."""
        return solvers.slope(self.teacher, x_t, t, c)

    @torch.no_grad()
    def step(self, x_t: Tensor, t: Tensor, r: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """Where the solver ends at r."""
        for start, end in substep_times(t, r, self.substeps):
            x_t = self.solver(self.teacher, x_t, start, end, c)
        return x_t


def substep_times(t: Tensor, r: Tensor, substeps: int, rho: float = 7.0) -> list[tuple[Tensor, Tensor]]:
    """Start and end of each of so many steps from t to r [B], evenly spaced in σ^(1/rho)."""
    inner = [torch.lerp(t ** (1 / rho), r ** (1 / rho), i / substeps) ** rho for i in range(1, substeps)]
    return list(pairwise([t, *inner, r]))
