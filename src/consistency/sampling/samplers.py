"""From noise to images. A sampler is (f, z [B, ...], sigmas [S], label, draws) -> [B, ...].

z is unit noise, sigmas fall from the starting level, f is any denoiser. No gradient is kept.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import UserError
from consistency.model.denoiser import DenoiserLike
from consistency.schedule.draws import Draws
from consistency.schedule.pairs import karras_grid


class Sampler(Protocol):
    """(f, z, sigmas, label, draws) -> [B, ...]."""

    def __call__(
        self,
        f: DenoiserLike,
        z: Tensor,
        sigmas: Sequence[float],
        label: Tensor | None = None,
        draws: Draws | None = None,
    ) -> Tensor:
        """Samples made from unit noise z."""
        ...


class Recipe(Protocol):
    """A sampler with its σ chosen."""

    def __call__(
        self, f: DenoiserLike, z: Tensor, *, label: Tensor | None = None, draws: Draws | None = None
    ) -> Tensor:
        """Samples made from unit noise z."""
        ...


@torch.no_grad()
def onestep(
    f: DenoiserLike,
    z: Tensor,
    sigmas: Sequence[float],
    label: Tensor | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """f(T z, T) with T = sigmas[0]: one network call."""
    return f(sigmas[0] * z, level(sigmas[0], z), label)


@torch.no_grad()
def multistep(
    f: DenoiserLike,
    z: Tensor,
    sigmas: Sequence[float],
    label: Tensor | None = None,
    draws: Draws | None = None,
    sigma_min: float = 0.002,
) -> Tensor:
    """Denoise, re-noise to the next level with √(τ² - ε²), denoise (2303.01469, algorithm 1).

    As many network calls as sigmas. `draws` supplies the fresh noise; levels below ε are raised to it.
    """
    x = onestep(f, z, sigmas, label)
    if len(sigmas) > 1 and draws is None:
        raise UserError("multistep sampling with more than one σ needs draws for the fresh noise")
    for tau in sigmas[1:]:
        tau = max(tau, sigma_min)  # before the root: ε² - ε² in low precision may be negative
        added = (tau**2 - sigma_min**2) ** 0.5
        x = f(x + added * draws.normal(x), level(tau, x), label)  # type: ignore[union-attr]
    return x


@torch.no_grad()
def euler(
    D: DenoiserLike,
    z: Tensor,
    sigmas: Sequence[float],
    label: Tensor | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """The probability-flow ODE by Euler's method, as many network calls as sigmas; ends at σ = 0."""
    x = z.double() * sigmas[0]
    for sigma, following in steps(sigmas):
        x = x + (following - sigma) * slope(D, x, sigma, z, label)
    return x.to(z.dtype)


@torch.no_grad()
def heun(
    D: DenoiserLike,
    z: Tensor,
    sigmas: Sequence[float],
    label: Tensor | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """Heun's second-order method without churn (2206.00364, algorithm 1): 2S - 1 network calls; ends at 0."""
    x = z.double() * sigmas[0]
    for sigma, following in steps(sigmas):
        d = slope(D, x, sigma, z, label)
        x_next = x + (following - sigma) * d
        if following > 0:
            d = (d + slope(D, x_next, following, z, label)) / 2
            x_next = x + (following - sigma) * d
        x = x_next
    return x.to(z.dtype)


def karras_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> list[float]:
    """The teacher's noise levels, descending from sigma_max to sigma_min; the samplers add the final 0."""
    return karras_grid(steps, sigma_min, sigma_max, rho).flip(0).tolist()


def slope(D: DenoiserLike, x: Tensor, sigma: float, z: Tensor, label: Tensor | None) -> Tensor:
    """dx/dσ = (x - D(x, σ))/σ in float64; the network sees the dtype of z."""
    return (x - D(x.to(z.dtype), level(sigma, x), label).double()) / sigma


def steps(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Neighbouring levels, the last step going to 0."""
    return list(zip(sigmas, [*sigmas[1:], 0.0], strict=True))


def level(sigma: float, x: Tensor) -> Tensor:
    """σ for each sample of x, float64 [B]."""
    return torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
