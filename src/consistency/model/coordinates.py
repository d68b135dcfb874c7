"""Other people's noise levels as changes of variables to σ.

Every process of the field is x_t = α(t) x_0 + β(t) z. Divided by α it is x_σ = x_0 + σ z with σ = β/α: the
coordinates differ in nothing but the unit of x and the name of the level. Levels are [B], float64.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from consistency.errors import UserError, positive, within

MOST_LEVELS = 100_000  # of a discrete chain; DDPM has 1,000


class Interpolant(NamedTuple):
    """x_t = α x_0 + β z, and its velocity v = α' x_0 + β' z; each [B] in float64."""

    alpha: Tensor
    beta: Tensor
    alpha_rate: Tensor
    beta_rate: Tensor


class Coordinate(Protocol):
    """σ [B] <-> t [B], and the interpolant there."""

    @property
    def unit(self) -> float:
        """Standard deviation that inputs x_t and outputs v of networks in this coordinate are divided by."""
        ...

    @property
    def lowest(self) -> float:
        """The least σ that networks of this coordinate have seen."""
        ...

    def time(self, sigma: Tensor) -> Tensor:
        """t of σ [B]."""
        ...

    def sigma(self, time: Tensor) -> Tensor:
        """σ of t [B]."""
        ...

    def interpolant(self, sigma: Tensor) -> Interpolant:
        """α, β and their rates of change at σ [B]."""
        ...


@dataclass(frozen=True)
class Linear:
    """Flow matching (2210.02747, 2209.03003): x_u = (1 - u) x_0 + u z on [0, 1], σ = u/(1 - u).

    Its velocity is dx_u/du = z - x_0. At u = 1, pure noise, σ is infinite.
    """

    unit: float = 1.0
    lowest: float = 0.0

    def time(self, sigma: Tensor) -> Tensor:
        """u = σ/(1 + σ)."""
        return sigma.double() / (1 + sigma.double())

    def sigma(self, time: Tensor) -> Tensor:
        """u/(1 - u)."""
        return time.double() / (1 - time.double())

    def interpolant(self, sigma: Tensor) -> Interpolant:
        """α = 1 - u = 1/(1 + σ) and β = u, whose rates are -1 and 1."""
        alpha, one = 1 / (1 + sigma.double()), torch.ones_like(sigma, dtype=torch.float64)
        return Interpolant(alpha, sigma * alpha, -one, one)


@dataclass(frozen=True)
class Trigonometric:
    """TrigFlow (2410.11081): x_t = cos t x_0 + sin t σ_data z on [0, π/2], σ = σ_data tan t.

    Its velocity is σ_data F, and F is EDM's network with the sign turned.

    Args:
        unit: σ_data, standard deviation of the data.
    """

    unit: float = 0.5
    lowest: float = 0.0

    def __post_init__(self) -> None:
        positive("coordinate", unit=self.unit)
        within("coordinate", 1e-9, 1e6, unit=self.unit)  # its square is a number of float64

    def time(self, sigma: Tensor) -> Tensor:
        """t = atan(σ/σ_data)."""
        return (sigma.double() / self.unit).atan()

    def sigma(self, time: Tensor) -> Tensor:
        """σ_data tan t."""
        return self.unit * time.double().tan()

    def interpolant(self, sigma: Tensor) -> Interpolant:
        """α = cos t, β = σ_data sin t, and their derivatives by t."""
        return circle(sigma, self.unit)


@dataclass(frozen=True)
class VP:
    """The variance-preserving SDE (2011.13456), β(τ) linear: σ² = exp(β_d τ²/2 + β_min τ) - 1 on (0, 1].

    The velocity is that by the angle atan σ (2202.00512), whatever τ is.

    Args:
        beta_d: β(1) - β(0).
        beta_min: β(0).
        lowest: σ at τ = 1e-5, where training begins (2206.00364, table 1).
    """

    beta_d: float = 19.9
    beta_min: float = 0.1
    unit: float = 1.0
    lowest: float = 1.0005e-3

    def __post_init__(self) -> None:
        positive("coordinate", beta_d=self.beta_d, beta_min=self.beta_min, unit=self.unit)
        within("coordinate", 0, 600, beta_d=self.beta_d, beta_min=self.beta_min)  # e^700 is infinite

    def time(self, sigma: Tensor) -> Tensor:
        """τ, in the form of 2206.00364, table 1, without its cancellation at small σ."""
        twice = 2 * (sigma.double() ** 2).log1p()
        return twice / ((self.beta_min**2 + self.beta_d * twice).sqrt() + self.beta_min)

    def sigma(self, time: Tensor) -> Tensor:
        """√(exp(β_d τ²/2 + β_min τ) - 1)."""
        time = time.double()
        return (self.beta_d * time**2 / 2 + self.beta_min * time).expm1().sqrt()

    def interpolant(self, sigma: Tensor) -> Interpolant:
        """α = 1/√(1 + σ²), β = σ α."""
        return circle(sigma, 1.0)


@dataclass(frozen=True)
class DDPM:
    """Discrete levels j = 0 … T-1 (2006.11239): σ_j = √(1/ᾱ_j - 1); between them ln σ is linear in j.

    There is no level below j = 0: its network has never seen less noise, and smaller σ get its index. This is
    not the continuous VP with 999 τ: at σ = 80 the index is 929.6, and 999 τ = 932.6.

    Args:
        betas: variances β_j, each in (0, 1).
    """

    betas: tuple[float, ...]
    unit: float = 1.0

    def __post_init__(self) -> None:
        if len(self.betas) < 2 or not all(0 < b < 1 for b in self.betas):
            raise UserError("coordinate.betas must be at least two numbers between 0 and 1")

    @classmethod
    def linear(cls, T: int = 1000, first: float = 1e-4, last: float = 0.02) -> "DDPM":
        """β rising linearly (2006.11239, section 4): σ from 0.0100005 to 157.4."""
        check_length(T)
        return cls(tuple(evenly(first, last, T).tolist()))

    @classmethod
    def cosine(cls, T: int = 1000, s: float = 0.008, largest: float = 0.999) -> "DDPM":
        """ᾱ following a squared cosine (2102.09672, eq. 17), β cut off at `largest`."""
        check_length(T)
        within("coordinate", 0, 1, s=s, largest=largest)

        def bar(j: int) -> float:
            return math.cos((j / T + s) / (1 + s) * math.pi / 2) ** 2

        return cls(tuple(min(1 - bar(j + 1) / bar(j), largest) for j in range(T)))

    @classmethod
    def scaled_linear(cls, T: int = 1000, first: float = 8.5e-4, last: float = 0.012) -> "DDPM":
        """√β rising linearly: latent diffusion's schedule (2112.10752)."""
        check_length(T)
        roots = evenly(first**0.5, last**0.5, T)
        return cls(tuple(roots.square().tolist()))

    @cached_property
    def levels(self) -> Tensor:
        """σ_j [T], ascending, float64."""
        kept = (1 - torch.tensor(self.betas, dtype=torch.float64, device="cpu")).log().cumsum(0)  # ln ᾱ
        return (-kept).expm1().sqrt()

    @cached_property
    def logs(self) -> Tensor:
        """ln σ_j [T]."""
        return self.levels.log()

    @property
    def lowest(self) -> float:
        """σ_0."""
        return self.levels[0].item()

    def time(self, sigma: Tensor) -> Tensor:
        """The index j, between the levels by ln σ, outside them the nearest."""
        logs, x = self.logs.to(sigma.device), sigma.double().clamp(min=self.lowest / 2).log()
        j = torch.searchsorted(logs, x).clamp(1, len(logs) - 1)
        below, above = logs[j - 1], logs[j]
        return (j - 1 + (x - below) / (above - below)).clamp(0, len(logs) - 1)

    def sigma(self, time: Tensor) -> Tensor:
        """σ at index j, which need not be whole."""
        logs, j = self.logs.to(time.device), time.double().clamp(0, len(self.betas) - 1)
        below = j.floor().long().clamp(max=len(logs) - 2)
        return torch.lerp(logs[below], logs[below + 1], j - below).exp()

    def interpolant(self, sigma: Tensor) -> Interpolant:
        """α = √ᾱ, β = √(1 - ᾱ), and the velocity of 2202.00512 by the angle atan σ."""
        return circle(sigma, 1.0)


@dataclass(frozen=True)
class Nearest:
    """A chain between whose levels nothing lies: its networks see the index of the level nearest in σ.

    So EDM has iDDPM's networks (2206.00364, table 1: j = M - 1 - argmin |u_j - σ|), where u_M = 0 is one more
    level, of index -1.

    Args:
        chain: its levels.
    """

    chain: DDPM

    @property
    def unit(self) -> float:
        """That of the chain."""
        return self.chain.unit

    @property
    def lowest(self) -> float:
        """σ_0."""
        return self.chain.lowest

    def time(self, sigma: Tensor) -> Tensor:
        """The whole index of the nearest level, -1 below σ_0/2; of two equally near, the higher."""
        levels = self.chain.levels.to(sigma.device)
        edges = torch.cat([levels[:1] / 2, (levels[1:] + levels[:-1]) / 2])
        return torch.searchsorted(edges, sigma.double().contiguous(), right=True).double() - 1

    def sigma(self, time: Tensor) -> Tensor:
        """σ at the index nearest to j; 0 at -1."""
        levels = torch.cat([torch.zeros(1, dtype=torch.float64), self.chain.levels]).to(time.device)
        return levels[time.double().round().long().clamp(-1, len(levels) - 2) + 1]

    def interpolant(self, sigma: Tensor) -> Interpolant:
        """That of the chain, which is one at every σ."""
        return self.chain.interpolant(sigma)


def evenly(first: float, last: float, T: int) -> Tensor:
    """T numbers in float64, on the CPU even where networks are outlined without numbers."""
    return torch.linspace(first, last, T, dtype=torch.float64, device="cpu")


def check_length(T: int) -> None:
    """Refuse a chain that no memory holds."""
    within("coordinate", 2, MOST_LEVELS, T=T)


def times(coordinate: Coordinate, *sigmas: float) -> list[float]:
    """t of single levels, as numbers."""
    return coordinate.time(torch.tensor(sigmas, dtype=torch.float64)).tolist()


def circle(sigma: Tensor, radius: float) -> Interpolant:
    """α = cos t and β = radius sin t at σ = radius tan t, and their derivatives by t."""
    slope = sigma.double() / radius
    cos = (1 + slope**2).rsqrt()
    sin = slope * cos
    return Interpolant(cos, radius * sin, -sin, radius * cos)
