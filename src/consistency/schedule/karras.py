"""Karras's grid of noise levels. Apart from `sigma`, so that a config is checked without torch."""

import torch
from torch import Tensor

from consistency.errors import within
from consistency.schedule.sigma import Sigma

MOST_POINTS = 2**20  # of a grid; the papers' finest has 1,281


def karras_grid(N: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """N noise levels ascending from sigma_min to sigma_max, equally spaced in σ^(1/rho) (2206.00364, eq. 5).

    Float64: in float32 the gaps of a fine grid are off by 1e-4 (facts gathered in tests/test_schedule.py).
    """
    Sigma(sigma_min, sigma_max, rho)
    within("sigma", 1, MOST_POINTS, levels=N)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    grid = torch.linspace(low, high, N, dtype=torch.float64) ** rho
    grid[0], grid[-1] = sigma_min, sigma_max  # the boundary condition is met bitwise
    return grid
