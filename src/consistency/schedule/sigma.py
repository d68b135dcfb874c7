"""The noise levels of a run: one range, from which all parts take theirs, and Karras's grid on it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consistency.errors import UserError, positive, within

if TYPE_CHECKING:
    from torch import Tensor

MOST_POINTS = 2**20  # of a grid; the papers' finest has 1,281


@dataclass(frozen=True)
class Sigma:
    """`sigma` in configs/train.yaml, and what any part is given of it.

    Args:
        min: ε, the lowest, from 1e-6 on.
        max: the highest, up to 1e6.
        rho: exponent of Karras's spacing, from 0.1 to 1000.
        data: standard deviation of the data, from 1e-3 to 1e3.
    """

    min: float = 0.002
    max: float = 80.0
    rho: float = 7.0
    data: float = 0.5

    def __post_init__(self) -> None:
        positive("sigma", min=self.min, max=self.max, rho=self.rho, data=self.data)
        if not self.min < self.max:
            raise UserError(
                f"sigma.min={self.min} and sigma.max={self.max} must satisfy 0 < sigma.min < sigma.max"
            )
        within("sigma", 1e-6, 1e6, min=self.min, max=self.max)
        within("sigma", 0.1, 1000, rho=self.rho)
        within("sigma", 1e-3, 1e3, data=self.data)


def karras_grid(N: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> "Tensor":
    """N noise levels ascending from sigma_min to sigma_max, equally spaced in σ^(1/rho) (2206.00364, eq. 5).

    Float64: in float32 the gaps of a fine grid are off by 1e-4 (facts gathered in tests/test_schedule.py).
    """
    import torch  # here, so that the `sigma` of a config is checked without it

    Sigma(sigma_min, sigma_max, rho)
    within("sigma", 1, MOST_POINTS, levels=N)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    grid = torch.linspace(low, high, N, dtype=torch.float64) ** rho
    grid[0], grid[-1] = sigma_min, sigma_max  # the boundary condition is met bitwise
    return grid
