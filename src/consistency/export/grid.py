"""The levels of diffusers' CMStochasticIterativeScheduler (Karras's grid) nearest to given σ lists."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from consistency.sampling.levels import visits

RHO = 7.0
SIZES = (40, 2000)  # smallest and largest grid to try; 40 is the library's default


class Grid(NamedTuple):
    """N levels, numbered from 0 at sigma_max to N - 1 at sigma_min.

    Args:
        N: number of levels.
        sigma_min: the last level.
        sigma_max: the first level, at which the pipeline begins.
        timesteps: level numbers of each sampler, falling, as the pipeline expects them. Samplers that begin
            at another level, or two of whose levels have the same number, are left out.
    """

    N: int
    sigma_min: float
    sigma_max: float
    timesteps: Mapping[str, list[int]]

    def sigmas(self, timesteps: Sequence[int]) -> list[float]:
        """The σ of level numbers, in the order of sampling, from high to low."""
        low, high = self.sigma_min ** (1 / RHO), self.sigma_max ** (1 / RHO)
        return [(high + i / (self.N - 1) * (low - high)) ** RHO for i in reversed(timesteps)]


def grid_of(lists: Mapping[str, Sequence[float]], sigma_min: float) -> Grid:
    """The grid with the smallest maximum of |ln σ - ln(nearest grid level)| over all levels of the lists."""
    levels = {name: [tau for tau, _ in visits(sigmas, sigma_min)] for name, sigmas in lists.items()}
    sigma_max = max(sigmas[0] for sigmas in levels.values())
    wanted = torch.tensor([s for sigmas in levels.values() for s in sigmas], dtype=torch.float64)
    low, high = sigma_min ** (1 / RHO), sigma_max ** (1 / RHO)

    def numbers(sigma: Tensor, N: Tensor | int) -> Tensor:
        return (high - sigma ** (1 / RHO)) / (high - low) * (N - 1)

    sizes = torch.arange(SIZES[0], SIZES[1] + 1, dtype=torch.float64)[:, None]
    nearest = numbers(wanted, sizes).round() / (sizes - 1)  # [sizes, levels]
    off = (RHO * (high + nearest * (low - high)).log() - wanted.log()).abs().amax(1)
    N = int(sizes[off.argmin()])
    found = {
        name: numbers(torch.tensor(sigmas, dtype=torch.float64), N).round().int().tolist()[::-1]
        for name, sigmas in levels.items()
    }
    usable = {name: steps for name, steps in found.items() if steps[-1] == 0 and len({*steps}) == len(steps)}
    return Grid(N, sigma_min, sigma_max, usable)
