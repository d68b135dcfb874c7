"""The Eulerian form: X_{t→s} must not change as t moves along the trajectory. MeanFlow, iMF, sCT and sCD.

    w (f - D̂) + (1 - w) df/d ln t = 0,   w = s/t

is denoising at s = t and the continuous consistency equation at s = 0. In the linear path's time it is the
MeanFlow identity (2505.13447, eq. 6): V = ū + (u - r) dū/du equals the velocity.
"""

import torch
from torch import Tensor

from consistency.model.maps import FlowMap
from consistency.objectives.augmentation import Augmentation
from consistency.objectives.balance import Balance
from consistency.objectives.bound import Bound
from consistency.objectives.derivative import Derivative
from consistency.objectives.flow import Flow
from consistency.objectives.power import Power
from consistency.objectives.tangent import Tangent
from consistency.objectives.two_time import UNCHANGED, Errors, Points, TwoTime, UntilS
from consistency.objectives.units import Units
from consistency.schedule.draws import Draws
from consistency.schedule.two_times import TwoTimes
from consistency.tensor import expand, same_dropout


class Eulerian(TwoTime):
    """‖(f - sg f)/unit - g‖², g = -(residual of that equation), bounded; the gradient is that of f alone.

    With `tangent` the total derivative is taken along the network's own velocity, and the data's remains the
    target: improved MeanFlow (2512.02012), whose V is a regression on the velocity.

    Args:
        derivative: how df is taken.
        bound: how long g may be.
        times: law of (t, s).
        units: of the error.
        power: how much large errors count.
        balance: w of t.
        tangent: whose velocity the derivative is taken along.
        augmentation: of the images.
        sigma_min: where f is the identity.
    """

    def __init__(
        self,
        derivative: Derivative,
        bound: Bound,
        times: TwoTimes,
        units: Units,
        power: Power,
        balance: Balance,
        tangent: Tangent,
        augmentation: Augmentation = UNCHANGED,
        sigma_min: float = 0.0,
    ) -> None:
        super().__init__(times, units, power, balance, tangent, augmentation, sigma_min)
        self.derivative, self.bound = derivative, bound

    def errors(
        self, f: FlowMap, stopped: FlowMap, flow: Flow, below: Flow, p: Points, k: int, draws: Draws
    ) -> Errors:
        """(f - sg f)/unit - g."""
        with torch.no_grad():
            residual = self.residual(stopped, flow, below, p)
        y = f(p.x_t, p.t, p.s, p.c)
        return Errors(self.in_units(y - y.detach(), p.t) + self.bound(self.in_units(residual, p.t)))

    def residual(self, f: FlowMap, flow: Flow, below: Flow, p: Points) -> Tensor:
        """rate (w (f - D̂) + (1 - w) df/d ln t) [B, ...], and what two different velocities add to it."""
        target, own = self.clean(flow, p), p.x_t.new_zeros(())
        dx = p.x_t - target  # dx/d ln t = t v
        if below is not flow:
            own = self.clean(below, p) - target  # V regresses on one velocity, and moves along another
            dx = dx - own
        with same_dropout(p.x_t.device):  # the next forward draws the same masks
            y, dy = self.derivative(UntilS(f, p.s), p.x_t, p.t, p.c, dx, p.t)
        residual = torch.lerp(dy, y - target, expand(p.s / p.t, y))
        rate, remaining = self.units.rate(p.t, p.s), self.units.remaining(p.t, p.s)
        return expand(rate, y) * residual + expand(remaining, y) * own
