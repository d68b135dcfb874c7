"""In which units is the error of a flow map measured? Those of what the network is taken to predict.

A flow map's error is one of f, an estimate of clean data. The papers differ in what they compare: mean
velocities of the linear path, or the network's own output. Both are f's error times a function of t.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import positive
from consistency.model.coefficients import Precond


class Units(Protocol):
    """Functions of t [B] and s [B], float64."""

    def of_f(self, t: Tensor) -> Tensor:
        """How much of f is one unit of the predicted quantity [B]."""
        ...

    def rate(self, t: Tensor, s: Tensor) -> Tensor:
        """Factor [B] of the Eulerian residual: the papers' rates are by another time than ln t."""
        ...

    def remaining(self, t: Tensor, s: Tensor) -> Tensor:
        """Share [B] of the time of the papers that lies between t and s: 0 at s = t, 1 at s = 0."""
        ...

    def moving(self, t: Tensor, s: Tensor) -> Tensor:
        """Share [B] of f in the rate at which X_{t→s} moves with s, but for the part of ∂f/∂s."""
        ...


@dataclass(frozen=True)
class MeanVelocity:
    """ū = (x_u - f)/u, the mean velocity on the linear path x_u = (1 - u) x_0 + u z (2505.13447, eq. 3).

    u = σ/(1 + σ), and d/d ln u = (1 + σ) d/d ln σ.
    """

    def of_f(self, t: Tensor) -> Tensor:
        """u."""
        return t / (1 + t)

    def rate(self, t: Tensor, s: Tensor) -> Tensor:
        """(1 + t)/(1 + s)."""
        return (1 + t) / (1 + s)

    def remaining(self, t: Tensor, s: Tensor) -> Tensor:
        """1 - u_s/u_t."""
        return (1 - s / t) / (1 + s)

    def moving(self, t: Tensor, s: Tensor) -> Tensor:
        """w + (1 - w) u_s: of d/du X/(1 + s)."""
        return (s / t + s) / (1 + s)


@dataclass(frozen=True)
class NetworkOutput:
    """The network's own output F = (f - c_skip x)/c_out, in the time σ; the units of 2410.11081.

    Args:
        precond: of the map.
        scale: factor of the residual. sCT and sCD have σ_data, which halves their step for data of 0.5.
    """

    precond: Precond
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive("units", scale=self.scale)

    def of_f(self, t: Tensor) -> Tensor:
        """|c_out(t)|."""
        return self.precond(t).out.abs()

    def rate(self, t: Tensor, s: Tensor) -> Tensor:
        """The scale."""
        return torch.full_like(t, self.scale)

    def remaining(self, t: Tensor, s: Tensor) -> Tensor:
        """1 - s/t."""
        return 1 - s / t

    def moving(self, t: Tensor, s: Tensor) -> Tensor:
        """w: of dX/ds."""
        return s / t
