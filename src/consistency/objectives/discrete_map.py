"""Pairs of points with a common end: X_{t→s}(x_t) = X_{r→s}(x_r), s <= r < t, without a derivative.

The flow takes x_t to x_r. In terms of f, the right side is a mean of what is known already:

    f(x_t, t, s) = λ D̂ + (1 - λ) f(x_r, r, s),   λ = s (t - r)/(r (t - s)),   D̂ = x_t - t (x_t - x_r)/(t - r)

At s = 0, λ = 0: consistency training and distillation. At r = s, λ = 1: denoising. CTM, SoFlow, α-Flow.
"""

import torch
from torch import Tensor

from consistency.errors import within
from consistency.model.coordinates import Coordinate
from consistency.model.maps import FlowMap
from consistency.objectives.augmentation import Augmentation
from consistency.objectives.balance import Balance
from consistency.objectives.flow import Flow
from consistency.objectives.power import Power
from consistency.objectives.tangent import Tangent
from consistency.objectives.two_time import UNCHANGED, Errors, Points, TwoTime
from consistency.objectives.units import Units
from consistency.schedule.draws import Draws
from consistency.schedule.two_times import Gap, TwoTimes
from consistency.tensor import expand, same_dropout


class DiscreteMap(TwoTime):
    """gap^m ‖(f(x_t, t, s) - sg (λ D̂ + (1 - λ) f(x_r, r, s)))/gap^q‖² in units.

    Args:
        gap: how far r lies on the way from t to s.
        coordinate: in whose time that way is measured.
        quotient: q; 1 makes the error a difference quotient.
        weight: m; the papers whose gap shrinks have 1 (SoFlow with q = 1, α-Flow with q = 0).
        times: law of (t, s).
        units: of the error.
        power: how much large errors count.
        balance: w of t.
        tangent: whose velocity takes x_t to x_r.
        augmentation: of the images.
        sigma_min: where f is the identity.
    """

    def __init__(
        self,
        gap: Gap,
        coordinate: Coordinate,
        times: TwoTimes,
        units: Units,
        power: Power,
        balance: Balance,
        tangent: Tangent,
        quotient: float = 0.0,
        weight: float = 0.0,
        augmentation: Augmentation = UNCHANGED,
        sigma_min: float = 0.0,
    ) -> None:
        super().__init__(times, units, power, balance, tangent, augmentation, sigma_min)
        within("objective", 0, 2, quotient=quotient, weight=weight)
        self.gap, self.coordinate, self.quotient, self.weight = gap, coordinate, quotient, weight

    def errors(
        self, f: FlowMap, stopped: FlowMap, flow: Flow, below: Flow, p: Points, k: int, draws: Draws
    ) -> Errors:
        """f(x_t, t, s) less its target, in units at t, divided by a power of the gap."""
        gap = self.gap(len(p.t), k, draws, p.t.device)
        r = self.between(p.t, p.s, gap)
        with same_dropout(p.x_t.device):  # the next forward draws the same masks
            y = f(p.x_t, p.t, p.s, p.c)
        with torch.no_grad():
            target = self.target(stopped, below, p, r)
        errors = self.in_units(y - target, p.t) / expand(gap**self.quotient, y)
        return Errors(errors, gap**self.weight)

    def target(self, f: FlowMap, flow: Flow, p: Points, r: Tensor) -> Tensor:
        """λ D̂ + (1 - λ) f(x_r, r, s) [B, ...]."""
        x_r = self.move(f, flow, p, r)
        secant = p.x_t - expand(p.t / (p.t - r), x_r) * (p.x_t - x_r)
        share = torch.where(r > p.s, p.s * (p.t - r) / (r * (p.t - p.s)), 1.0)
        known = share >= 1  # where r = s nothing is left to be mapped, and r may be 0
        end = f(x_r, torch.where(known, p.t, r), p.s, p.c)
        return torch.lerp(end, secant, expand(share, end))

    def move(self, f: FlowMap, flow: Flow, p: Points, r: Tensor) -> Tensor:
        """x_r [B, ...]: where the flow is at r."""
        return flow.step(p.x_t, p.t, r, p.x, p.z, p.c)

    def between(self, t: Tensor, s: Tensor, gap: Tensor) -> Tensor:
        """r [B], at a fraction of the way from t to s; s itself at 1."""
        time = torch.lerp(self.coordinate.time(t), self.coordinate.time(s), gap)
        return torch.where(gap < 1, self.coordinate.sigma(time), s)

    def progress(self, k: int) -> dict[str, float]:
        """That of the gap."""
        return self.gap.progress(k)
