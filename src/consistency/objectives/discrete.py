"""CT and CD (2303.01469), iCT (2310.14189), ECT: neighbours on a trajectory must map to the same point."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from consistency.model.condition import Condition
from consistency.model.maps import Map
from consistency.objectives.distance import Distance
from consistency.objectives.flow import Flow
from consistency.objectives.target import Target
from consistency.objectives.weighting import Weight
from consistency.schedule.draws import Draws
from consistency.schedule.pairs import Pairs
from consistency.tensor import Terms, perturb, same_dropout


class Objective(Protocol):
    """(f, target, flow, x, c, k, draws) -> Terms: what consistency methods minimise."""

    @property
    def sigma_min(self) -> float:
        """The least noise, where f is the identity."""
        ...

    def __call__(
        self, f: Map, target: Target, flow: Flow, x: Tensor, c: Condition, k: int, draws: Draws
    ) -> Terms:
        """Loss and σ of each sample of x [B, ...] at optimiser step k."""
        ...

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that σ falls between neighbouring edges [E] at step k -> [E-1]."""
        ...

    def progress(self, k: int) -> dict[str, float]:
        """What changes with the step, by name, for the logger."""
        ...


class Rollout(NamedTuple):
    """Two points of one trajectory: what a flow makes of a batch."""

    x_t: Tensor  # [B, ...]
    t: Tensor  # [B], float64
    x_r: Tensor  # [B, ...]
    r: Tensor  # [B], float64; 0 <= r < t
    c: Condition  # of each


@dataclass(frozen=True)
class Discrete:
    """λ(t, r) d(f(x_t, t), sg f⁻(x_r, r)), where the flow takes x_t to x_r.

    Args:
        pairs: law of the noise levels (t, r).
        distance: d.
        weight: λ.
    """

    pairs: Pairs
    distance: Distance
    weight: Weight

    @property
    def sigma_min(self) -> float:
        """ε of the pairs."""
        return self.pairs.sigma_min

    def __call__(
        self, f: Map, target: Target, flow: Flow, x: Tensor, c: Condition, k: int, draws: Draws
    ) -> Terms:
        """Loss and t of each sample of x [B, ...] at optimiser step k."""
        return self.compare(f, target, self.rollout(flow, x, c, k, draws))

    def rollout(self, flow: Flow, x: Tensor, c: Condition, k: int, draws: Draws) -> Rollout:
        """Noise x, and follow the flow to the lower level."""
        t, r = self.pairs(len(x), k, draws, x.device)  # [B], [B]; 0 <= r < t
        z = draws.normal(x)  # one noise for both ends
        x_t = perturb(x, z, t)
        return Rollout(x_t, t, flow.step(x_t, t, r, x, z, c), r, c)

    def compare(self, f: Map, target: Target, pair: Rollout) -> Terms:
        """How far the two ends are mapped from each other."""
        x_t, t, x_r, r, c = pair
        with same_dropout(x_t.device):  # the next forward draws the same masks, on CPU and on GPU
            y_t = f(x_t, t, c)
        with torch.no_grad():
            y_r = target(f)(x_r, r, c)
        return Terms(self.weight(t, r) * self.distance(y_t, y_r), t)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges [E] at step k -> [E-1]."""
        return self.pairs.mass(edges, k)

    def progress(self, k: int) -> dict[str, float]:
        """What changes with the step: N(k)."""
        return self.pairs.progress(k)
