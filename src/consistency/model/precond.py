"""Preconditioners: what the network sees of x_σ, and how its output F becomes D(x, σ) or f(x, σ).

D(x, σ) = c_skip(σ) x + c_out(σ) F(c_in(σ) x, c_noise(σ))      (2206.00364, eq. 7)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from consistency.errors import positive, within
from consistency.model.coefficients import Coefficients, Precond
from consistency.model.coordinates import Coordinate


def c_noise(sigma: Tensor, scale: float = 0.25) -> Tensor:
    """ln(σ)/4 (2206.00364, table 1), finite at σ = 0, where c_out = 0 hides whatever the network says."""
    return scale * sigma.clamp(min=torch.finfo(torch.float32).tiny).log()


@dataclass(frozen=True)
class EDM:
    """Karras et al. (2206.00364, table 1): the boundary f(x, 0) = x lies at σ = 0. For teachers.

    Args:
        sigma_data: standard deviation of the data, from 1e-9 to 1e6.
        time_scale: c_noise = time_scale ln σ. 1/4 is EDM's; networks of OpenAI's consistency models take 250.
    """

    sigma_data: float = 0.5
    time_scale: float = 0.25

    def __post_init__(self) -> None:
        check_level("data", self.sigma_data)
        check_scale(self.time_scale)

    @property
    def lowest(self) -> float:
        """0."""
        return 0.0

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B]."""
        sigma, s2 = sigma.double(), self.sigma_data**2
        total = sigma**2 + s2
        noise = c_noise(sigma, self.time_scale)
        return Coefficients(s2 / total, sigma * self.sigma_data / total.sqrt(), total.rsqrt(), noise)


@dataclass(frozen=True)
class Boundary:
    """Consistency models (2303.01469, app. C): f(x, ε) = x exactly, at the lowest point of a discrete grid.

    c_skip and c_out are EDM's with σ shifted by ε, except under the root of c_out.

    Args:
        sigma_data: standard deviation of the data, from 1e-9 to 1e6.
        sigma_min: ε, the lowest noise level, from 1e-9 to 1e6.
        time_scale: as in `EDM`.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002
    time_scale: float = 0.25

    def __post_init__(self) -> None:
        check_level("data", self.sigma_data)
        check_level("min", self.sigma_min)
        check_scale(self.time_scale)

    @property
    def lowest(self) -> float:
        """ε."""
        return self.sigma_min

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B] >= ε."""
        sigma, s2 = sigma.double(), self.sigma_data**2
        above, total = sigma - self.sigma_min, sigma**2 + s2
        skip, out = s2 / (above**2 + s2), above * self.sigma_data / total.sqrt()
        return Coefficients(skip, out, total.rsqrt(), c_noise(sigma, self.time_scale))


@dataclass(frozen=True)
class Epsilon:
    """A network that predicts the noise of x_t (2006.11239): D = x - σ ε(α x, t). For DDPM teachers.

    Args:
        coordinate: α and t as functions of σ.
        time_scale: the network is given time_scale t.
    """

    coordinate: Coordinate
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        check_scale(self.time_scale)

    @property
    def lowest(self) -> float:
        """That of the coordinate."""
        return self.coordinate.lowest

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B]."""
        sigma, x_t = sigma.double(), self.coordinate.interpolant(sigma)
        noise = self.time_scale * self.coordinate.time(sigma)
        return Coefficients(torch.ones_like(sigma), -sigma, x_t.alpha / self.coordinate.unit, noise)


@dataclass(frozen=True)
class VE:
    """The variance-exploding SDE (2011.13456; 2206.00364, table 1): D = x + σ F(x, ln(σ/2)).

    Args:
        sigma_min: the lowest noise level of its training, from 1e-9 to 1e6.
    """

    sigma_min: float = 0.02

    def __post_init__(self) -> None:
        check_level("min", self.sigma_min)

    @property
    def lowest(self) -> float:
        """That of its training."""
        return self.sigma_min

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B]."""
        sigma = sigma.double()
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, c_noise(sigma / 2, 1.0))


@dataclass(frozen=True)
class Velocity:
    """A network that predicts v = α' x_0 + β' z: D = (β' x_t - β v)/(α β' - α' β). For flow teachers.

    In the linear coordinate, D = x_u - u v and v = z - x_0.

    Args:
        coordinate: α, β, their rates and t as functions of σ.
        time_scale: the network is given time_scale t.
    """

    coordinate: Coordinate
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        check_scale(self.time_scale)

    @property
    def lowest(self) -> float:
        """That of the coordinate."""
        return self.coordinate.lowest

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B]."""
        a, b, a_rate, b_rate = self.coordinate.interpolant(sigma)
        turn, unit = a * b_rate - a_rate * b, self.coordinate.unit
        noise = self.time_scale * self.coordinate.time(sigma)
        return Coefficients(b_rate * a / turn, -b * unit / turn, a / unit, noise)


@dataclass(frozen=True)
class Jump:
    """A consistency function from any denoiser: f(x, σ) = (ε/σ) x + (1 - ε/σ) D(x, σ), so that f(x, ε) = x.

    This is one Euler step of the probability flow from σ to ε: a student that starts from its teacher's
    weights starts as its teacher's jump, whatever the coordinate it was trained in.

    Args:
        precond: the teacher's.
        sigma_min: ε, the lowest noise level, from 1e-9 to 1e6.
    """

    precond: Precond
    sigma_min: float = 0.002

    def __post_init__(self) -> None:
        check_level("min", self.sigma_min)

    @property
    def lowest(self) -> float:
        """That of the teacher."""
        return self.precond.lowest

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B] >= ε."""
        c, stay = self.precond(sigma), self.sigma_min / sigma.double()
        return Coefficients(stay + (1 - stay) * c.skip, (1 - stay) * c.out, c.inp, c.noise)


def check_level(name: str, value: float) -> None:
    """Refuse a standard deviation or noise level whose square, or its inverse, is beyond float64."""
    positive("sigma", **{name: value})
    within("sigma", 1e-9, 1e6, **{name: value})


def check_scale(time_scale: float) -> None:
    """Refuse a scale at which a network would see the same number at every noise level, or infinity."""
    within("precond", 1e-6, 1e6, time_scale=time_scale)
