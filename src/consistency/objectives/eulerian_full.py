"""The Eulerian form minimised itself: Eulerian self-distillation (ESD; 2505.18825, section 3)."""

import torch

from consistency.model.maps import FlowMap
from consistency.objectives.eulerian import Eulerian
from consistency.objectives.flow import Flow
from consistency.objectives.two_time import Errors, Points, UntilS
from consistency.schedule.draws import Draws
from consistency.tensor import expand, same_dropout


class FullEulerian(Eulerian):
    """‖residual‖², whose gradient passes through f and ∂f/∂t; what x moves of f is stopped.

    `Eulerian` has the same value, and the gradient of f alone. The derivative by t is taken at constant x_σ,
    where the paper has it at constant x of its linear path. Arguments are those of `Eulerian`; there is no
    bound of the error.
    """

    def errors(
        self, f: FlowMap, stopped: FlowMap, flow: Flow, below: Flow, p: Points, k: int, draws: Draws
    ) -> Errors:
        """rate (w (f - D̂) + (1 - w) df/d ln t) in units."""
        target = self.clean(below, p)
        dx = p.x_t - target  # dx/d ln t
        with torch.no_grad(), same_dropout(p.x_t.device):  # the next forward draws the same masks
            moved = self.derivative(UntilS(stopped, p.s), p.x_t, p.t, p.c, dx, torch.zeros_like(p.t))[1]
        y, dy = self.derivative(UntilS(f, p.s), p.x_t, p.t, p.c, torch.zeros_like(p.x_t), p.t)
        residual = torch.lerp(dy + moved, y - target, expand(p.s / p.t, y))
        return Errors(self.in_units(expand(self.units.rate(p.t, p.s), y) * residual, p.t))
