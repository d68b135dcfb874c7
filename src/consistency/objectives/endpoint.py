"""Consistency trajectory models (2310.02279): jumps to s are compared after both are taken on to s = 0."""

import torch
from torch import Tensor

from consistency.model.maps import FlowMap
from consistency.objectives.discrete_map import DiscreteMap
from consistency.objectives.flow import Flow
from consistency.objectives.two_time import Errors, Points
from consistency.schedule.draws import Draws
from consistency.tensor import expand, same_dropout

TINY = 1e-6  # a level at which f is the identity to rounding


class Endpoint(DiscreteMap):
    """‖f⁻(X_{t→s}(x_t), s, 0) - f⁻(sg X_{r→s}(x_r), s, 0)‖², where f⁻ is the target's and X the map's own.

    The gradient passes through f⁻, whose weights are constant. The error is one of clean data: the units
    hold at s = t alone, where the map denoises. Arguments are those of `DiscreteMap`.
    """

    def errors(
        self, f: FlowMap, stopped: FlowMap, flow: Flow, below: Flow, p: Points, k: int, draws: Draws
    ) -> Errors:
        """The difference of both ends."""
        gap = self.gap(len(p.t), k, draws, p.t.device)
        r = self.between(p.t, p.s, gap)
        with same_dropout(p.x_t.device):  # the next jump draws the same masks
            jump = f.jump(p.x_t, p.t, p.s, p.c)
        with torch.no_grad():
            w = expand(p.s / p.t, jump)
            other = torch.lerp(self.target(f, below, p, r), p.x_t, w)
            end = taken_to_zero(stopped, other, p)
        return Errors(taken_to_zero(stopped, jump, p) - end)


def taken_to_zero(f: FlowMap, x: Tensor, p: Points) -> Tensor:
    """f(x, s, 0) [B, ...]: x itself at s = 0."""
    s = p.s.clamp(min=TINY)
    return torch.where(expand(p.s, x) > 0, f(x, s, torch.zeros_like(s), p.c), x)
