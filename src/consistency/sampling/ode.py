"""Solvers of a denoiser's probability flow, dx/dσ = (x - D(x, σ))/σ, from the first level down to σ = 0.

The state is float64, and inputs of the network have the dtype of z. The last step, to 0, ends at D.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log, sqrt
from typing import Any

from torch import Tensor

from consistency.errors import ArgumentError, check_option
from consistency.model import solvers
from consistency.model.condition import NONE, Condition
from consistency.model.maps import Denoiser, DenoiserLike
from consistency.sampling.levels import check_falling, steps
from consistency.sampling.samplers import Sampler
from consistency.schedule.draws import Draws
from consistency.tensor import level

Noise = Callable[[], Tensor]  # fresh unit noise like the state


@dataclass(frozen=True)
class Solver(Sampler):
    """What solvers share: levels that fall, and a float64 state."""

    role = Denoiser

    def _check(self) -> None:
        super()._check()
        check_falling(self.sigmas)

    def _sample(self, f: Any, z: Tensor, c: Condition, draws: Draws | None) -> Tensor:
        def D(x: Tensor, sigma: Tensor, c: Condition = NONE) -> Tensor:
            return self.clipped(f(x.to(z.dtype), sigma, c)).double()

        def noise() -> Tensor:
            assert draws is not None
            return draws.normal(z).double()

        return self._solve(D, z.double() * self.sigmas[0], c, noise).to(z.dtype)

    @abstractmethod
    def _solve(self, D: DenoiserLike, x: Tensor, c: Condition, noise: Noise) -> Tensor: ...


@dataclass(frozen=True)
class Euler(Solver):
    """Euler's method.

    On the levels of a DDPM this is deterministic DDIM (2010.02502), on those of a flow its Euler sampler.
    """

    name = "euler"

    def _solve(self, D: DenoiserLike, x: Tensor, c: Condition, noise: Noise) -> Tensor:
        for sigma, following in steps(self.sigmas):
            x = solvers.euler(D, x, level(sigma, x), level(following, x), c)
        return x


@dataclass(frozen=True)
class Heun(Solver):
    """Heun's second-order method (2206.00364, algorithm 1): 2S - 1 network calls for S levels.

    With s_churn > 0, EDM's stochastic sampler (algorithm 2): before each step, noise is added that raises the
    level by the share γ = min(s_churn/S, √2 - 1).

    Args:
        s_churn: how much noise is added over all steps.
        s_min: the lowest level where that is done.
        s_max: the highest.
        s_noise: standard deviation of the noise that is added, relative to the noise that the level requires.
    """

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = inf
    s_noise: float = 1.0

    name = "heun"

    @property
    def nfe(self) -> int:
        """Two a step, and one of the last."""
        return 2 * len(self.sigmas) - 1

    @property
    def fresh(self) -> bool:
        """Where some level is churned."""
        return any(self._raise(sigma) for sigma in self.sigmas)

    def levels_of(self, calls: int) -> int | None:
        """Of an odd number of calls."""
        return (calls + 1) // 2 if calls % 2 else None

    def _check(self) -> None:
        super()._check()
        check_option("s_churn", self.s_churn, 0.0, 1e6)
        check_option("s_min", self.s_min, 0.0, inf)
        check_option("s_max", self.s_max, 0.0, inf)
        check_option("s_noise", self.s_noise, 0.0, 10.0)
        if self.s_min > self.s_max:
            raise ArgumentError(f"s_min={self.s_min} must be at most s_max={self.s_max}")

    def _raise(self, sigma: float) -> float:
        """γ at a level."""
        within = self.s_min <= sigma <= self.s_max
        return min(self.s_churn / len(self.sigmas), sqrt(2) - 1) if within else 0.0

    def _solve(self, D: DenoiserLike, x: Tensor, c: Condition, noise: Noise) -> Tensor:
        for sigma, following in steps(self.sigmas):
            start = sigma
            if gamma := self._raise(sigma):
                start = sigma * (1 + gamma)
                x = x + sqrt(start**2 - sigma**2) * self.s_noise * noise()
            step = solvers.heun if following > 0 else solvers.euler
            x = step(D, x, level(start, x), level(following, x), c)
        return x


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM (2010.02502, eq. 12), written in σ.

    eta = 0 is deterministic, and Euler's method; eta = 1 is the ancestral sampler of DDPM (2006.11239,
    algorithm 2 with the smaller variance). Of the noise at the next level σ', the share η σ' √(1 - σ'²/σ²) is
    fresh.

    Args:
        eta: η, from 0 to 1.
    """

    eta: float = 0.0

    name = "ddim"
    shown = ("eta",)

    @property
    def fresh(self) -> bool:
        """Between calls, unless eta = 0."""
        return self.eta > 0 and len(self.sigmas) > 1

    def _check(self) -> None:
        super()._check()
        check_option("eta", self.eta, 0.0, 1.0)

    def _solve(self, D: DenoiserLike, x: Tensor, c: Condition, noise: Noise) -> Tensor:
        for sigma, following in steps(self.sigmas):
            fresh = self.eta * following * (1 - (following / sigma) ** 2) ** 0.5
            kept = (following**2 - fresh**2) ** 0.5
            x = solvers.euler(D, x, level(sigma, x), level(kept, x), c)
            if fresh:
                x = x + fresh * noise()
        return x


@dataclass(frozen=True)
class DPMSolver(Solver):
    """DPM-Solver++(2M) (2211.01095, algorithm 2), of second order with one network call a level.

    In σ, λ = -ln σ: with h the step of λ and r that of the step before over h, each step ends at
    (σ'/σ) x + (1 - σ'/σ) ((1 + 1/2r) D - 1/2r D_before). The first step and the last, to 0, are of first
    order.
    """

    name = "dpm"

    def _solve(self, D: DenoiserLike, x: Tensor, c: Condition, noise: Noise) -> Tensor:
        before: tuple[Tensor, float] | None = None  # D and the step of λ
        for sigma, following in steps(self.sigmas):
            y = D(x, level(sigma, x), c)
            if not following:
                return y
            h, ratio = log(sigma / following), following / sigma
            towards = y
            if before is not None:
                share = h / (2 * before[1])
                towards = (1 + share) * y - share * before[0]
            x = ratio * x + (1 - ratio) * towards
            before = (y, h)
        raise AssertionError("the last level is followed by 0")
