"""The Lagrangian form: as s moves, X_{t→s} must follow the flow that starts at its end. LMD, LSD, TVM.

∂X_{t→s}/∂s = velocity at (X_{t→s}, s); times s, and in terms of f:

    f - (1 - w) ∂f/∂ln s = D(X_{t→s}, s),   w = s/t
"""

import torch

from consistency.model.maps import FlowMap
from consistency.objectives.augmentation import Augmentation
from consistency.objectives.balance import Balance
from consistency.objectives.derivative import Derivative
from consistency.objectives.flow import Flow
from consistency.objectives.power import Power
from consistency.objectives.tangent import Tangent
from consistency.objectives.two_time import UNCHANGED, Errors, FromT, Points, TwoTime
from consistency.objectives.units import Units
from consistency.schedule.draws import Draws
from consistency.schedule.two_times import TwoTimes
from consistency.tensor import expand


class Lagrangian(TwoTime):
    """‖∂X/∂s - sg velocity(X, s)‖² in units at s; the gradient passes through the derivative.

    D is a teacher's (LMD; 2506.14603, section 3.2) or the map's own diagonal (LSD; 2505.18825, section 3). At
    s = t both sides are f(x, t, t), and at s = 0 both are f(x, t, 0): nothing is learned there.

    Args:
        derivative: how ∂f/∂s is taken.
        times: law of (t, s).
        units: of the error.
        power: how much large errors count.
        balance: w of t.
        tangent: whose D it is; the flow's, if it knows velocities anywhere, or the network's own.
        augmentation: of the images.
        sigma_min: where f is the identity.
    """

    anywhere = True

    def __init__(
        self,
        derivative: Derivative,
        times: TwoTimes,
        units: Units,
        power: Power,
        balance: Balance,
        tangent: Tangent,
        augmentation: Augmentation = UNCHANGED,
        sigma_min: float = 0.0,
    ) -> None:
        super().__init__(times, units, power, balance, tangent, augmentation, sigma_min)
        self.derivative = derivative

    def errors(
        self, f: FlowMap, stopped: FlowMap, flow: Flow, below: Flow, p: Points, k: int, draws: Draws
    ) -> Errors:
        """f - (1 - w) ∂f/∂ln s - sg D(X, s), in units at s."""
        y, dy = self.derivative(FromT(f, p.t), p.x_t, p.s, p.c, torch.zeros_like(p.x_t), p.s)
        w = expand(p.s / p.t, y)
        arrived = torch.lerp(y, p.x_t, w).detach()
        D = self.clean(below, p._replace(x_t=arrived, t=p.s))
        moving = torch.lerp(
            y.detach(), y, expand(self.units.moving(p.t, p.s), y)
        )  # the rest is of X, stopped
        return Errors(self.in_units(moving - (1 - w) * dy - D, p.s))
