"""The semigroup form: two jumps are one, X_{t→s} = X_{r→s}(X_{t→r}). PSD and shortcut models."""

from torch import Tensor

from consistency.model.maps import FlowMap
from consistency.objectives.discrete_map import DiscreteMap
from consistency.objectives.flow import Flow
from consistency.objectives.two_time import Points


class Semigroup(DiscreteMap):
    """`DiscreteMap` whose points are moved by the map itself (PSD: 2505.18825; 2410.12557).

    No velocity is needed below the diagonal. Arguments are those of `DiscreteMap`.
    """

    def move(self, f: FlowMap, flow: Flow, p: Points, r: Tensor) -> Tensor:
        """X_{t→r}(x_t) [B, ...]."""
        return f.jump(p.x_t, p.t, r, p.c)
