"""From noise to images: samplers as values, (f, z [B, ...], c, draws) -> [B, ...].

z is unit noise and the levels fall from where sampling begins, in σ. No gradient is kept. Those here sample
from a consistency function or a flow map; solvers of a denoiser are in `consistency.sampling.ode`, and those
of diffusers in `consistency.sampling.scheduled`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from consistency.errors import ArgumentError, UserError, check_option
from consistency.model.coefficients import Precond
from consistency.model.condition import NONE, Condition
from consistency.model.maps import (
    Consistency,
    DenoiserLike,
    FlowMap,
    Map,
    denoise_at,
    preconditioned,
    suited_map,
)
from consistency.model.portions import Portions
from consistency.sampling.levels import check_falling, checked_sigmas, fresh, steps, visits
from consistency.schedule.draws import Draws
from consistency.tensor import level

if TYPE_CHECKING:
    from consistency.sampling.programs import Program


@dataclass(frozen=True)
class Sampler(ABC):
    """A way to make samples, with its noise levels; compared and searched as the value that it is.

    Args:
        sigmas: noise levels, falling; the first is where sampling begins. Kept as a tuple of floats.
        clip: clamp every estimate of clean data to [-1, 1], as OpenAI's code and diffusers do by default.
        precond: preconditioner that the network is called with in place of the one it was trained with.

    Attributes:
        name: in cards and tables.
        role: of the maps that it samples from.
        shown: options that a card always names; the others where they are not the default.

    Raises:
        ArgumentError: the levels or an option make no sampler.
    """

    sigmas: Sequence[float]
    clip: bool = field(default=False, kw_only=True)
    precond: Precond | None = field(default=None, kw_only=True)

    name: ClassVar[str]
    role: ClassVar[type[Map]]
    shown: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", checked_sigmas(self.sigmas))
        self._check()

    @torch.no_grad()
    def __call__(self, f: Any, z: Tensor, c: Condition = NONE, draws: Draws | None = None) -> Tensor:
        """Samples [B, ...] in the dtype of z.

        Args:
            f: a map of `role`; or a function of the same arguments, which is taken for one.
            z: unit noise [B, ...].
            c: of the samples.
            draws: fresh noise, where `fresh` is true.

        Raises:
            UserError: a map of another role; fresh noise without draws.
        """
        if self.fresh and draws is None:
            raise UserError(f"{self.title} needs draws for the fresh noise that it adds")
        return self._sample(self.map_of(f), z, c, draws)

    @property
    def nfe(self) -> int:
        """Network calls per sample."""
        return len(self.sigmas)

    @property
    def fresh(self) -> bool:
        """Whether noise is drawn besides z."""
        return False

    @property
    def options(self) -> dict[str, Any]:
        """All but the levels, by name. Samplers of one class and equal options are a family."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "sigmas"}

    @property
    def described_options(self) -> dict[str, Any]:
        """The options that make a difference: those of `shown`, and others that are not the default."""
        usual = {each.name: each.default for each in fields(self)}
        return {k: v for k, v in self.options.items() if k in self.shown or v != usual[k]}

    @property
    def title(self) -> str:
        """For rungs of a ladder: its name and its calls, such as `heun35`."""
        return f"{self.name}{self.nfe}"

    def family(self, other: "Sampler") -> bool:
        """Whether another sampler differs in its levels alone."""
        return type(self) is type(other) and self.options == other.options

    def with_sigmas(self, sigmas: Sequence[float]) -> Self:
        """The same sampler at other levels."""
        return replace(self, sigmas=sigmas)

    def levels_of(self, calls: int) -> int | None:
        """Number of levels with which it makes so many network calls; None if no list does."""
        return calls

    def program(self, f: Map) -> "Program":
        """A module that does the same as a function of all its noise, for exports.

        It is called with z [B, K, ...], where K is its `noises`, and labels [B] or None. See
        `consistency.sampling.programs`.
        """
        from consistency.sampling.programs import Combined

        return Combined(self, self.map_of(f))

    def map_of(self, f: Any) -> Any:
        """f as this sampler calls it: of its role, with its preconditioner.

        Raises:
            UserError: a map of another role.
        """
        if isinstance(f, Portions):
            return replace(f, f=self.map_of(f.f))
        found = suited_map(f, self.role, self.title)
        if self.precond is None:
            return found
        if not isinstance(found, Map):
            raise UserError(f"{self.title}: precond needs a network, and this is a function without one")
        return preconditioned(found, self.precond)

    def estimate(self, f: DenoiserLike, x: Tensor, sigma: float, c: Condition) -> Tensor:
        """Clean data at one σ for all samples, clipped if `clip` is set."""
        return self.clipped(denoise_at(f, x, sigma, c))

    def clipped(self, x: Tensor) -> Tensor:
        """An estimate of clean data, inside [-1, 1] if `clip` is set."""
        return x.clamp(-1.0, 1.0) if self.clip else x

    @abstractmethod
    def _sample(self, f: Any, z: Tensor, c: Condition, draws: Draws | None) -> Tensor: ...

    def _check(self) -> None:
        """Refuse options that make no sense, and levels that do not go with them."""
        if type(self.clip) is not bool:
            raise ArgumentError(f"clip={self.clip} must be true or false")
        if self.precond is not None and not callable(self.precond):
            raise ArgumentError("precond is no preconditioner: choose one of configs/precond, or null")


@dataclass(frozen=True)
class OneStep(Sampler):
    """f(T z, T): one network call at the only level."""

    name = "onestep"
    role = Consistency

    @property
    def title(self) -> str:
        """1step."""
        return "1step"

    def levels_of(self, calls: int) -> int | None:
        """One, of one call."""
        return 1 if calls == 1 else None

    def program(self, f: Map) -> "Program":
        """See `Sampler.program`."""
        from consistency.sampling.programs import Renoised

        return Renoised(self.map_of(f), visits(self.sigmas, 0.0), self.clip)

    def _check(self) -> None:
        super()._check()
        if len(self.sigmas) != 1:
            raise ArgumentError(f"sigmas has {len(self.sigmas)} levels, and one step has one: use MultiStep")

    def _sample(self, f: Any, z: Tensor, c: Condition, draws: Draws | None) -> Tensor:
        return self.estimate(f, self.sigmas[0] * z, self.sigmas[0], c)


@dataclass(frozen=True)
class MultiStep(Sampler):
    """Denoise, re-noise to the next level with √(τ² - ε²), denoise (2303.01469, algorithm 1).

    Args:
        sigma_min: ε; levels below are raised to it.
    """

    sigma_min: float = 0.002

    name = "multistep"
    role = Consistency
    shown = ("sigma_min",)

    @property
    def fresh(self) -> bool:
        """Between calls."""
        return len(self.sigmas) > 1

    @property
    def title(self) -> str:
        """Such as `2step`."""
        return f"{self.nfe}step"

    def program(self, f: Map) -> "Program":
        """See `Sampler.program`."""
        from consistency.sampling.programs import Renoised

        return Renoised(self.map_of(f), visits(self.sigmas, self.sigma_min), self.clip)

    def _check(self) -> None:
        super()._check()
        check_option("sigma_min", self.sigma_min, 0.0, 1e6)

    def _sample(self, f: Any, z: Tensor, c: Condition, draws: Draws | None) -> Tensor:
        x = self.estimate(f, self.sigmas[0] * z, self.sigmas[0], c)
        for tau, added in (fresh(sigma, self.sigma_min) for sigma in self.sigmas[1:]):
            assert draws is not None
            x = self.estimate(f, x + added * draws.normal(x), tau, c)
        return x


@dataclass(frozen=True)
class Jumps(Sampler):
    """A flow map from level to level, and from the last to σ = 0 (2310.02279, γ-sampling).

    Each jump ends at s √(1 - γ²), where noise γ s is added: γ = 0 follows the trajectory, and γ = 1 is
    multistep consistency sampling with ε = 0. The last jump adds none. The state is float64; `clip` clamps
    the map's estimate of clean data, from which a jump's end follows.

    Args:
        gamma: γ, from 0 to 1.
    """

    gamma: float = 0.0

    name = "jumps"
    role = FlowMap
    shown = ("gamma",)

    @property
    def fresh(self) -> bool:
        """Unless it follows the trajectory."""
        return self.gamma > 0 and len(self.sigmas) > 1

    @property
    def title(self) -> str:
        """Such as `2jump`."""
        return f"{self.nfe}jump"

    def _check(self) -> None:
        super()._check()
        check_falling(self.sigmas)
        check_option("gamma", self.gamma, 0.0, 1.0)

    def _sample(self, f: Any, z: Tensor, c: Condition, draws: Draws | None) -> Tensor:
        x = z.double() * self.sigmas[0]
        for t, s in steps(self.sigmas):
            end = s * (1 - self.gamma**2) ** 0.5
            y = self.clipped(f(x.to(z.dtype), level(t, x), level(end, x), c)).double()
            x = (end / t) * x + (1 - end / t) * y
            if self.gamma and s:
                assert draws is not None
                x = x + self.gamma * s * draws.normal(z).double()
        return x.to(z.dtype)


def check_samplers(samplers: Mapping[str, object], f: Any) -> None:
    """Refuse what is no sampler, and samplers of another role than the model's.

    Raises:
        UserError: names the first.
    """
    for name, sampler in samplers.items():
        if not isinstance(sampler, Sampler):
            raise UserError(
                f"samplers.{name} is no sampler: choose a _target_ of configs/samplers, or a class of your "
                "own that extends consistency.sampling.samplers.Sampler"
            )
        try:
            sampler.map_of(f)
        except UserError as error:
            raise UserError(f"samplers.{name}: {error}") from error
