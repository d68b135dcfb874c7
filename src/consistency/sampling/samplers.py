"""From noise to images. A sampler is (f, z [B, ...], sigmas [S], c, draws) -> [B, ...].

z is unit noise, sigmas fall from the starting level, f is any denoiser. No gradient is kept.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import UserError, within
from consistency.model import solvers
from consistency.model.condition import NONE, Condition
from consistency.model.coordinates import Coordinate, times
from consistency.model.maps import DenoiserLike, Map
from consistency.model.solvers import Solver
from consistency.schedule.draws import Draws
from consistency.schedule.pairs import karras_grid
from consistency.schedule.sigma import Sigma

MOST_CALLS = 10_000  # of the network, for a sample


class Sampler(Protocol):
    """(f, z, sigmas, c, draws) -> [B, ...]."""

    def __call__(
        self,
        f: DenoiserLike,
        z: Tensor,
        sigmas: Sequence[float],
        c: Condition = NONE,
        draws: Draws | None = None,
    ) -> Tensor:
        """Samples made from unit noise z."""
        ...


class Recipe(Protocol):
    """A sampler with its σ chosen."""

    def __call__(
        self, f: DenoiserLike, z: Tensor, *, c: Condition = NONE, draws: Draws | None = None
    ) -> Tensor:
        """Samples made from unit noise z."""
        ...


@torch.no_grad()
def onestep(
    f: DenoiserLike,
    z: Tensor,
    sigmas: Sequence[float],
    c: Condition = NONE,
    draws: Draws | None = None,
) -> Tensor:
    """f(T z, T) with T = sigmas[0]: one network call."""
    check_sigmas(sigmas)
    return denoised(f, sigmas[0] * z, sigmas[0], c)


@torch.no_grad()
def multistep(
    f: DenoiserLike,
    z: Tensor,
    sigmas: Sequence[float],
    c: Condition = NONE,
    draws: Draws | None = None,
    sigma_min: float = 0.002,
) -> Tensor:
    """Denoise, re-noise to the next level with √(τ² - ε²), denoise (2303.01469, algorithm 1).

    As many network calls as sigmas. `draws` supplies the fresh noise; levels below ε are raised to it.
    """
    x = onestep(f, z, sigmas, c)
    if len(sigmas) > 1 and draws is None:
        raise UserError("multistep sampling with more than one σ needs draws for the fresh noise")
    for tau, added in (fresh(sigma, sigma_min) for sigma in sigmas[1:]):
        x = denoised(f, x + added * draws.normal(x), tau, c)  # type: ignore[union-attr]
    return x


def fresh(sigma: float, sigma_min: float) -> tuple[float, float]:
    """A level to go on at, not below ε, and the noise √(τ² - ε²) that an image of level ε lacks of it."""
    tau = max(sigma, sigma_min)  # before the root: ε² - ε² in low precision may be negative
    return tau, (tau**2 - sigma_min**2) ** 0.5


def visits(sigmas: Sequence[float], sigma_min: float) -> list[tuple[float, float]]:
    """The level of each network call of `multistep`, and the noise added before it: of the first, all."""
    first, *others = sigmas
    return [(first, first), *(fresh(sigma, sigma_min) for sigma in others)]


@torch.no_grad()
def euler(
    D: DenoiserLike,
    z: Tensor,
    sigmas: Sequence[float],
    c: Condition = NONE,
    draws: Draws | None = None,
) -> Tensor:
    """The probability-flow ODE by Euler's method, as many network calls as sigmas; ends at σ = 0.

    On the levels of a DDPM this is deterministic DDIM (2010.02502), on those of a flow its Euler sampler.
    """
    return integrate(solvers.euler, D, z, sigmas, c)


@torch.no_grad()
def heun(
    D: DenoiserLike,
    z: Tensor,
    sigmas: Sequence[float],
    c: Condition = NONE,
    draws: Draws | None = None,
) -> Tensor:
    """Heun's second-order method without churn (2206.00364, algorithm 1): 2S - 1 network calls; ends at 0."""
    return integrate(solvers.heun, D, z, sigmas, c)


@torch.no_grad()
def ddim(
    D: DenoiserLike,
    z: Tensor,
    sigmas: Sequence[float],
    c: Condition = NONE,
    draws: Draws | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (2010.02502, eq. 12), written in σ: as many network calls as sigmas; ends at σ = 0.

    eta = 0 is deterministic, and Euler's method; eta = 1 is the ancestral sampler of DDPM (2006.11239,
    algorithm 2 with the smaller variance). Of the noise at the next level σ', the share η σ' √(1 - σ'²/σ²) is
    fresh, from `draws`.
    """
    check_falling(sigmas)
    within("samplers", 0, 1, eta=eta)
    if eta and draws is None:
        raise UserError(f"ddim with eta={eta} needs draws for the fresh noise; use eta=0")
    x = z.double() * sigmas[0]
    for sigma, following in steps(sigmas):
        fresh = eta * following * (1 - (following / sigma) ** 2) ** 0.5
        kept = (following**2 - fresh**2) ** 0.5
        x = solvers.euler(in_dtype_of(z, D), x, level(sigma, x), level(kept, x), c)
        if fresh:
            x = x + fresh * draws.normal(z).double()  # type: ignore[union-attr]
    return x.to(z.dtype)


def integrate(solver: Solver, D: DenoiserLike, z: Tensor, sigmas: Sequence[float], c: Condition) -> Tensor:
    """The probability-flow ODE from sigmas[0] z to 0, in float64; the last step, to 0, is Euler's."""
    check_falling(sigmas)
    x = z.double() * sigmas[0]
    for sigma, following in steps(sigmas):
        step = solver if following > 0 else solvers.euler
        x = step(in_dtype_of(z, D), x, level(sigma, x), level(following, x), c)
    return x.to(z.dtype)


def in_dtype_of(z: Tensor, D: DenoiserLike) -> DenoiserLike:
    """D for a float64 state: the network sees the dtype of z."""
    return lambda x, sigma, c=NONE: D(x.to(z.dtype), sigma, c).double()


def karras_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> list[float]:
    """The teacher's noise levels, descending from sigma_max to sigma_min; the samplers add the final 0."""
    within("samplers", 1, MOST_CALLS, steps=steps)
    return karras_grid(steps, sigma_min, sigma_max, rho).flip(0).tolist()


def even_sigmas(
    coordinate: Coordinate, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> list[float]:
    """Noise levels evenly spaced in another coordinate's time, descending from sigma_max to sigma_min.

    The native steps of a sampler: indices of a DDPM, u of a flow. Never below what the coordinate knows.
    """
    Sigma(sigma_min, sigma_max)
    within("samplers", 1, MOST_CALLS, steps=steps)
    first, last = times(coordinate, sigma_max, max(sigma_min, coordinate.lowest))
    return coordinate.sigma(torch.linspace(first, last, steps, dtype=torch.float64)).tolist()


def check_sigmas(sigmas: Sequence[float]) -> None:
    """Refuse noise levels that are none; a sampler begins at the first, and only that must be noise."""
    levels = 1 <= len(sigmas) <= MOST_CALLS and all(0 <= sigma <= 1e6 for sigma in sigmas)
    if not levels or not sigmas[0] > 0:
        few = ", ".join(f"{sigma:g}" for sigma in sigmas[:8])
        raise UserError(
            f"sigmas=[{few}] of a sampler must be a list of 1 to {MOST_CALLS:,} noise levels up to 1e6, "
            "the first greater than 0"
        )


def check_falling(sigmas: Sequence[float]) -> None:
    """Refuse levels that a solver cannot go down."""
    check_sigmas(sigmas)
    if not all(sigma > following for sigma, following in steps(sigmas)):
        few = ", ".join(f"{sigma:g}" for sigma in sigmas[:8])
        raise UserError(f"sigmas=[{few}] of a solver must fall, and end above 0")


def steps(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Neighbouring levels, the last step going to 0."""
    return list(zip(sigmas, [*sigmas[1:], 0.0], strict=True))


def denoised(f: DenoiserLike, x: Tensor, sigma: float, c: Condition) -> Tensor:
    """f(x, σ, c) at one σ for all samples."""
    return f(x, sigma, c) if isinstance(f, Map) else f(x, level(sigma, x), c)


def level(sigma: float, x: Tensor) -> Tensor:
    """σ for each sample of x, float64 [B]."""
    return torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
