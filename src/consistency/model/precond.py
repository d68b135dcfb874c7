"""Preconditioners: what the network sees of x_σ, and how its output F becomes D(x, σ) or f(x, σ).

D(x, σ) = c_skip(σ) x + c_out(σ) F(c_in(σ) x, c_noise(σ))      (2206.00364, eq. 7)
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from consistency.errors import UserError


class Coefficients(NamedTuple):
    """The four functions of σ, each [B] in float64."""

    skip: Tensor
    out: Tensor
    inp: Tensor
    noise: Tensor


class Precond(Protocol):
    """σ [B] -> Coefficients."""

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B]."""
        ...


def c_noise(sigma: Tensor) -> Tensor:
    """ln(σ)/4 (2206.00364, table 1), finite at σ = 0, where c_out = 0 hides whatever the network says."""
    return sigma.clamp(min=torch.finfo(torch.float32).tiny).log() / 4


@dataclass(frozen=True)
class EDM:
    """Karras et al. (2206.00364, table 1): the boundary f(x, 0) = x lies at σ = 0. For teachers.

    Args:
        sigma_data: standard deviation of the data, > 0.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        positive("sigma.data", self.sigma_data)

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B]."""
        sigma, s2 = sigma.double(), self.sigma_data**2
        total = sigma**2 + s2
        return Coefficients(s2 / total, sigma * self.sigma_data / total.sqrt(), total.rsqrt(), c_noise(sigma))


@dataclass(frozen=True)
class Boundary:
    """Consistency models (2303.01469, app. C): f(x, ε) = x exactly, at the lowest point of a discrete grid.

    c_skip and c_out are EDM's with σ shifted by ε, except under the root of c_out.

    Args:
        sigma_data: standard deviation of the data, > 0.
        sigma_min: ε, the lowest noise level, > 0.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002

    def __post_init__(self) -> None:
        positive("sigma.data", self.sigma_data)
        positive("sigma.min", self.sigma_min)

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B] >= ε."""
        sigma, s2 = sigma.double(), self.sigma_data**2
        above, total = sigma - self.sigma_min, sigma**2 + s2
        skip, out = s2 / (above**2 + s2), above * self.sigma_data / total.sqrt()
        return Coefficients(skip, out, total.rsqrt(), c_noise(sigma))


def positive(key: str, value: float) -> None:
    """Refuse a value that is not a positive number."""
    if not value > 0:
        raise UserError(f"{key}={value} must be greater than 0")
