"""Isotropic Gaussian mixtures: their denoiser, probability-flow trajectories and consistency function.

Everything is computed in float64 and returned in the dtype of x. Shapes: means [K, ...], x [B, ...], σ [B].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from consistency.errors import UserError
from consistency.model.condition import NONE, Condition
from consistency.tensor import expand
from consistency.watch import tick

BLOCK = 2**22  # largest table [B, K] of posterior weights in one block: 32 MB
FLOOR = 1e-3  # σ from which trajectories to σ = 0 take one last step: steps are in ln σ
TINY = torch.finfo(torch.float64).tiny  # replaces a variance of 0, for which the log density is infinite


@dataclass(frozen=True, eq=False)
class Mixture:
    """Σ_k w_k N(m_k, s² I): one Gaussian (K = 1), a ring of them, or a finite data set (s = 0).

    It is a denoiser: call it as (x, σ, c). The condition c is ignored.

    Args:
        weights: w [K], positive; they need not sum to one.
        means: m [K, ...], K points with the shape of a sample.
        std: s >= 0, in units of the data.
    """

    weights: Tensor
    means: Tensor
    std: float

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise UserError(f"std={self.std} of a mixture must not be negative")
        object.__setattr__(self, "weights", self.weights.double())
        object.__setattr__(self, "means", self.means.double())

    @classmethod
    def gaussian(cls, v: float, shape: tuple[int, ...] = (2,)) -> "Mixture":
        """N(0, v² I) over samples of the given shape."""
        return cls(torch.ones(1), torch.zeros(1, *shape), v)

    @classmethod
    def ring(cls, modes: int = 8, std: float = 0.1) -> "Mixture":
        """Gaussians on a circle of radius √(2 (1/4 - s²)), so that each coordinate has σ_data = 1/2."""
        if not 0 <= std < 0.5:
            raise UserError(f"std={std} of a ring must lie in [0, 0.5): its coordinates have std 0.5 in all")
        angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
        radius = math.sqrt(2 * (0.25 - std**2))
        return cls(torch.ones(modes), radius * torch.stack([angle.cos(), angle.sin()], 1), std)

    @classmethod
    def finite(cls, x: Tensor) -> "Mixture":
        """The empirical distribution of x [M, ...]."""
        return cls(torch.ones(len(x), device=x.device), x, 0.0)

    def to(self, device: torch.device | str) -> "Mixture":
        """The same density on another device; do this once for a large data set, as calls would copy it."""
        return replace(self, weights=self.weights.to(device), means=self.means.to(device))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples [n, ...] in float64."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        means = self.means[k]
        z = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
        return means + self.std * z

    def denoise(self, x: Tensor, sigma: Tensor, c: Condition = NONE) -> Tensor:
        """D(x, σ) = E[x_0 | x_σ = x], for σ [B] >= 0; at σ = 0 and s = 0 the nearest data point."""
        return by_blocks(self.to(x.device)._posterior_mean, x, sigma.to(x.device).double(), rows=self._rows())

    __call__ = denoise

    def solve(self, x: Tensor, start: Tensor, end: Tensor, steps: int = 200) -> Tensor:
        """The point at noise level `end` [B] of the trajectory dx/dσ = (x - D)/σ that is at x at `start` [B].

        Closed form for one Gaussian, else Runge-Kutta of fourth order in ln σ, upwards or downwards. At the
        default number of steps the error of the ring from 80 to 0.002 is about 1e-7.
        """
        density, start, end = self.to(x.device), start.to(x.device).double(), end.to(x.device).double()
        if len(self.means) == 1:
            return density._rescale(x.double(), start, end).to(x.dtype)
        return density._integrate(x.double(), start, end, steps).to(x.dtype)

    def consistency(self, x: Tensor, sigma: Tensor, sigma_min: float = 0.002) -> Tensor:
        """f(x, σ): the point at σ_min of the trajectory through x at σ [B] (2303.01469, definition 1)."""
        return self.solve(x, sigma, torch.full_like(sigma, sigma_min, dtype=torch.float64))

    def _posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(s² x + σ² Σ_k p_k m_k)/(s² + σ²), with p_k the posterior weight of component k."""
        total = (self.std**2 + sigma**2).clamp(min=TINY)[:, None]
        flat, means = x.double().flatten(1), self.means.flatten(1)
        fit = (
            flat @ means.T - torch.linalg.vector_norm(means, dim=1).square() / 2
        )  # -‖x - m_k‖²/2 up to a term that all k share
        p = ((fit - fit.amax(1, keepdim=True)) / total + self.weights.log()).softmax(1)
        nearby = p @ means
        return (nearby + self.std**2 / total * (flat - nearby)).reshape(x.shape).to(x.dtype)

    def _rescale(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """One Gaussian: m + (x - m) √((s² + end²)/(s² + start²))."""
        ratio = (self.std**2 + end**2) / (self.std**2 + start**2).clamp(min=TINY)
        return self.means + (x - self.means) * expand(ratio.sqrt(), x)

    def _integrate(self, x: Tensor, start: Tensor, end: Tensor, steps: int) -> Tensor:
        reached = torch.where(end > 0, end, start.clamp(max=FLOOR))
        a, b = start.clamp(min=TINY).log(), reached.clamp(min=TINY).log()
        for i in range(steps):
            x = self._step(x, a + (b - a) * i / steps, (b - a) / steps)
            tick()
        return torch.where(expand(reached > end, x).bool(), self._land(x, reached), x)

    def _land(self, x: Tensor, sigma: Tensor) -> Tensor:
        """One step from a small σ to 0: exact for a single component, else with an error of O(σ⁴)."""
        r = expand(self.std / (self.std**2 + sigma**2).clamp(min=TINY).sqrt(), x)
        return (self.denoise(x, sigma) + r * x) / (1 + r)

    def _step(self, x: Tensor, u: Tensor, h: Tensor) -> Tensor:
        """One classical Runge-Kutta step of dx/du = x - D(x, e^u) from u to u + h."""
        H = expand(h, x)
        k1 = self._slope(x, u)
        k2 = self._slope(x + H / 2 * k1, u + h / 2)
        k3 = self._slope(x + H / 2 * k2, u + h / 2)
        k4 = self._slope(x + H * k3, u + h)
        return x + H / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def _slope(self, x: Tensor, u: Tensor) -> Tensor:
        return x - self.denoise(x, u.exp())

    def _rows(self) -> int:
        return max(1, BLOCK // len(self.means))


def by_blocks(f: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, rows: int) -> Tensor:
    """f(x, σ), evaluated for at most `rows` samples at a time."""
    return torch.cat([f(*block) for block in zip(x.split(rows), sigma.split(rows), strict=True)])
