"""Lists of noise levels, falling, and the noise that leads from call to call.

The last step of every sampler, to σ = 0, is no part of a list.
"""

from collections.abc import Sequence

import torch

from consistency.errors import ArgumentError, within
from consistency.model.coordinates import Coordinate, times
from consistency.schedule.sigma import Sigma, karras_grid

MOST_CALLS = 10_000  # of the network, for a sample


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


def nearest_sigmas(coordinate: Coordinate, sigmas: Sequence[float]) -> list[float]:
    """The levels of a chain nearest to those of a list, each once, as EDM samples from iDDPM's networks.

    Args:
        coordinate: a `Nearest`; any other moves a level only where it is below the lowest.
        sigmas: noise levels, descending.
    """
    levels = torch.tensor([max(sigma, coordinate.lowest) for sigma in checked_sigmas(sigmas)]).double()
    return list(dict.fromkeys(coordinate.sigma(coordinate.time(levels)).tolist()))


def checked_sigmas(sigmas: Sequence[float]) -> tuple[float, ...]:
    """Noise levels as numbers; a sampler begins at the first, and only that must be noise.

    Raises:
        ArgumentError: they are no noise levels.
    """
    try:
        found = tuple(float(sigma) for sigma in ([] if isinstance(sigmas, str) else sigmas))
    except (TypeError, ValueError) as error:
        raise ArgumentError("sigmas must be a list of noise levels, such as [80.0, 0.8]") from error
    levels = 1 <= len(found) <= MOST_CALLS and all(0 <= sigma <= 1e6 for sigma in found)
    if not levels or not found[0] > 0:
        raise ArgumentError(
            f"sigmas=[{few(found)}] must be a list of 1 to {MOST_CALLS:,} noise levels up to 1e6, the first "
            "greater than 0"
        )
    return found


def check_falling(sigmas: Sequence[float]) -> None:
    """Refuse levels that a solver cannot go down.

    Raises:
        ArgumentError: they do not fall, or end at 0.
    """
    if not all(sigma > following for sigma, following in steps(sigmas)):
        raise ArgumentError(f"sigmas=[{few(sigmas)}] of a solver must fall, and end above 0")


def few(sigmas: Sequence[float]) -> str:
    """The first levels of a list, for a message."""
    return ", ".join(f"{sigma:g}" for sigma in sigmas[:8])


def steps(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Neighbouring levels, the last step going to 0."""
    return list(zip(sigmas, [*sigmas[1:], 0.0], strict=True))


def fresh(sigma: float, sigma_min: float) -> tuple[float, float]:
    """A level to go on at, not below ε, and the noise √(τ² - ε²) that an image of level ε lacks of it."""
    tau = max(sigma, sigma_min)  # before the root: ε² - ε² in low precision may be negative
    return tau, (tau**2 - sigma_min**2) ** 0.5


def visits(sigmas: Sequence[float], sigma_min: float) -> list[tuple[float, float]]:
    """The level of each network call of `MultiStep`, and the noise added before it: of the first, all."""
    first, *others = sigmas
    return [(first, first), *(fresh(sigma, sigma_min) for sigma in others)]
