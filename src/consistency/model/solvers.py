"""Steps along the probability-flow ODE dx/dσ = (x - D(x, σ))/σ, from t down to r [B]."""

from typing import Protocol

import torch
from torch import Tensor

from consistency.model.condition import NONE, Condition
from consistency.model.maps import DenoiserLike
from consistency.tensor import expand


class Solver(Protocol):
    """(D, x [B, ...], t [B], r [B], c) -> x_r."""

    def __call__(self, D: DenoiserLike, x: Tensor, t: Tensor, r: Tensor, c: Condition = NONE) -> Tensor:
        """Where the step from t ends at r."""
        ...


def slope(D: DenoiserLike, x: Tensor, sigma: Tensor, c: Condition = NONE) -> Tensor:
    """dx/dσ = (x - D(x, σ))/σ: -σ times the score (2206.00364, eq. 3)."""
    return (x - D(x, sigma, c)) / expand(sigma, x)


def euler(D: DenoiserLike, x: Tensor, t: Tensor, r: Tensor, c: Condition = NONE) -> Tensor:
    """Along the tangent at t: one call, error O((t - r)²). The same step in every coordinate."""
    return x + expand(r - t, x) * slope(D, x, t, c)


def heun(D: DenoiserLike, x: Tensor, t: Tensor, r: Tensor, c: Condition = NONE) -> Tensor:
    """Along the mean of the tangents at both ends: two calls, error O((t - r)³). Euler's where r = 0."""
    d = slope(D, x, t, c)
    end = x + expand(r - t, x) * d
    d_end = slope(D, end, torch.where(r > 0, r, t), c)
    return x + expand(r - t, x) * torch.where(expand(r, x) > 0, (d + d_end) / 2, d)
