"""What the objectives of flow maps f(x, t, s) share: a share of denoising at s = t, and one hole below it.

X_{t→s} = w x + (1 - w) f(x, t, s) with w = s/t is the point at s of the trajectory through x at t.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.model.condition import NONE, Condition
from consistency.model.maps import FlowMap
from consistency.objectives.augmentation import Augmentation, NoAugmentation
from consistency.objectives.balance import Balance
from consistency.objectives.flow import DataFlow, Flow
from consistency.objectives.power import Power
from consistency.objectives.tangent import SelfTangent, Tangent
from consistency.objectives.target import Target
from consistency.objectives.units import Units
from consistency.schedule.draws import Draws
from consistency.schedule.two_times import TwoTimes
from consistency.tensor import MapTerms, expand, perturb

UNCHANGED = NoAugmentation()


class Points(NamedTuple):
    """Noisy samples, and the levels between which they are mapped."""

    x: Tensor  # clean [B, ...]
    z: Tensor  # [B, ...]
    x_t: Tensor  # x + t z
    t: Tensor  # [B], float64
    s: Tensor  # [B], float64, 0 <= s <= t
    c: Condition

    def rows(self, which: Tensor) -> Self:
        """Some of them, by number."""
        x, z, x_t, t, s = (value[which] for value in self[:-1])
        return type(self)(x, z, x_t, t, s, self.c.rows(which))


class Errors(NamedTuple):
    """What is squared, and how much its samples count."""

    value: Tensor  # [B, ...], in units
    weight: Tensor | None = None  # [B], of the loss; None for 1


class MapObjective(Protocol):
    """(f, target, flow, x, c, k, draws) -> MapTerms: what flow maps minimise."""

    trains: ClassVar[type[FlowMap]]

    @property
    def sigma_min(self) -> float:
        """The least noise, where f is the identity."""
        ...

    @property
    def augmentation(self) -> Augmentation:
        """Of the training images."""
        ...

    def __call__(
        self, f: FlowMap, target: Target, flow: Flow, x: Tensor, c: Condition, k: int, draws: Draws
    ) -> MapTerms:
        """Loss, t and s of each sample of x [B, ...] at optimiser step k."""
        ...

    def check(self, f: FlowMap, flow: object) -> None:
        """Refuse a map or a flow that does not suit it."""
        ...

    def progress(self, k: int) -> dict[str, float]:
        """What changes with the step, by name, for the logger."""
        ...

    def joint_mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability of each pair of cells of (t, s) at step k -> [E-1, E-1]."""
        ...


class TwoTime(nn.Module, ABC):
    """Mean square of an error in chosen units: of denoising at s = t, of the subclass below it.

    Args:
        times: law of (t, s).
        units: of the error.
        power: how much large errors count.
        balance: w of t in e^w d - w; its parameters, if any, are trained too.
        tangent: whose velocity moves points below the diagonal; the target at s = t is always the flow's.
        augmentation: x -> what is learned instead, and the label that tells the network so.
        sigma_min: where f is the identity: 0 unless the preconditioner has another.
    """

    trains: ClassVar[type[FlowMap]] = FlowMap
    anywhere = False  # whether velocities are needed elsewhere than at x + t z

    def __init__(
        self,
        times: TwoTimes,
        units: Units,
        power: Power,
        balance: Balance,
        tangent: Tangent,
        augmentation: Augmentation = UNCHANGED,
        sigma_min: float = 0.0,
    ) -> None:
        super().__init__()
        self.augmentation = augmentation
        self.times, self.units, self.power, self.balance = times, units, power, balance
        self.tangent, self.sigma_min = tangent, sigma_min

    @property
    def diagonal(self) -> bool:
        """Whether s = t is trained."""
        return bool(self.times.on_diagonal(10**4).any())

    def check(self, f: FlowMap, flow: object) -> None:
        """Refuse a map that is not the one trained here, and a flow that does not know what is needed.

        Raises:
            UserError: it names the key to change.
        """
        if f.has_diagonal != self.diagonal:
            raise UserError(
                f"model.diagonal={f.has_diagonal} but times.diagonal trains "
                f"{'a' if self.diagonal else 'no'} share of s = t: set model.diagonal={self.diagonal}"
            )
        own = isinstance(self.tangent, SelfTangent)
        if own and not self.diagonal:
            raise UserError(
                "tangent=self takes velocities from s = t: set times.diagonal above 0, or tangent=flow"
            )
        if self.anywhere and not own and isinstance(flow, DataFlow):
            raise UserError(
                f"objective: {type(self).__name__} takes velocities where the map ends, and flow=data knows "
                "them at x + t z alone: set tangent=self, flow=reference, or distil a teacher"
            )

    def __call__(
        self, f: FlowMap, target: Target, flow: Flow, x: Tensor, c: Condition, k: int, draws: Draws
    ) -> MapTerms:
        """Loss, t and s of each sample of x [B, ...] at optimiser step k."""
        t, s = self.times(len(x), k, draws, x.device)
        x, label = self.augmentation(x, draws)
        c = c if label is None else c._replace(augment=label)
        z = draws.normal(x)
        points = Points(x, z, perturb(x, z, t), t, s, c)
        stopped: FlowMap = target(f)  # type: ignore[assignment]
        below = self.tangent.of(stopped, flow)
        diagonal = self.times.on_diagonal(len(x)).to(x.device)
        on, off = diagonal.nonzero()[:, 0], (~diagonal).nonzero()[:, 0]
        loss = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        if len(on):
            loss = loss.index_put((on,), self.loss(self.denoising(f, flow, points.rows(on))))
        if len(off):
            errors = self.errors(f, stopped, flow, below, points.rows(off), k, draws)
            loss = loss.index_put((off,), self.loss(errors))
        w = self.balance(t)
        return MapTerms(w.exp() * loss - w, t, s)

    def loss(self, errors: Errors) -> Tensor:
        """[B]."""
        found = self.power(mean_square(errors.value), errors.value[0].numel())
        return found if errors.weight is None else errors.weight.to(found) * found

    def denoising(self, f: FlowMap, flow: Flow, p: Points) -> Errors:
        """(f(x_t, t, t) - D̂)/unit, with D̂ what the flow takes for clean data."""
        return Errors(self.in_units(f(p.x_t, p.t, p.t, p.c) - self.clean(flow, p), p.t))

    @abstractmethod
    def errors(
        self, f: FlowMap, stopped: FlowMap, flow: Flow, below: Flow, p: Points, k: int, draws: Draws
    ) -> Errors:
        """Errors below the diagonal.

        Args:
            f: the map that learns.
            stopped: the one that supplies targets.
            flow: whose D̂ is the target.
            below: whose velocity moves points: the flow, or the network's own.
            p: the points.
            k: optimiser step.
            draws: random numbers of the step.
        """

    def clean(self, flow: Flow, p: Points) -> Tensor:
        """D̂ = x_t - t v [B, ...]."""
        return p.x_t - expand(p.t, p.x_t) * flow.velocity(p.x_t, p.t, p.x, p.z, p.c)

    def in_units(self, error: Tensor, t: Tensor) -> Tensor:
        """An error of f [B, ...] in units of the predicted quantity at t [B]."""
        return error / expand(self.units.of_f(t), error)

    def joint_mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability of each pair of cells of (t, s) at step k -> [E-1, E-1]."""
        return self.times.joint_mass(edges, k)

    def progress(self, k: int) -> dict[str, float]:
        """Nothing changes with the step."""
        return {}


def mean_square(errors: Tensor) -> Tensor:
    """[B, ...] -> [B]."""
    return errors.flatten(1).square().mean(1)


class UntilS(nn.Module):
    """A flow map with s fixed: (x, t, c) -> f(x, t, s, c)."""

    def __init__(self, f: FlowMap, s: Tensor) -> None:
        super().__init__()
        self.f, self.s = f, s

    def forward(self, x: Tensor, t: Tensor, c: Condition = NONE) -> Tensor:
        """f [B, ...]."""
        return self.f(x, t, self.s, c)


class FromT(nn.Module):
    """A flow map with t fixed: (x, s, c) -> f(x, t, s, c)."""

    def __init__(self, f: FlowMap, t: Tensor) -> None:
        super().__init__()
        self.f, self.t = f, t

    def forward(self, x: Tensor, s: Tensor, c: Condition = NONE) -> Tensor:
        """f [B, ...]."""
        return self.f(x, self.t, s, c)
