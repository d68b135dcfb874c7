"""A curriculum from pairs of points to the derivative that they tend to: α-Flow (2510.20771)."""

from typing import ClassVar

from torch import Tensor, nn

from consistency.model.condition import Condition
from consistency.model.maps import FlowMap
from consistency.objectives.augmentation import Augmentation
from consistency.objectives.discrete_map import DiscreteMap
from consistency.objectives.eulerian import Eulerian
from consistency.objectives.flow import Flow
from consistency.objectives.target import Target
from consistency.schedule.draws import Draws
from consistency.schedule.two_times import FallingGap
from consistency.tensor import MapTerms


class Handover(nn.Module):
    """Pairs as long as their gap is above 0, then the Eulerian form.

    Args:
        gap: of the pairs at a step.
        discrete: the objective until then, of this gap.
        limit: from then on; of the same times and units.
    """

    trains: ClassVar[type[FlowMap]] = FlowMap

    def __init__(self, gap: FallingGap, discrete: DiscreteMap, limit: Eulerian) -> None:
        super().__init__()
        self.gap, self.discrete, self.limit = gap, discrete, limit

    @property
    def sigma_min(self) -> float:
        """Where f is the identity."""
        return self.limit.sigma_min

    @property
    def augmentation(self) -> Augmentation:
        """Of the images, in both."""
        return self.limit.augmentation

    def at(self, k: int) -> DiscreteMap | Eulerian:
        """The objective of step k."""
        return self.discrete if self.gap.fraction(k) > 0 else self.limit

    def check(self, f: FlowMap, flow: object) -> None:
        """Refuse what either refuses."""
        self.discrete.check(f, flow)
        self.limit.check(f, flow)

    def __call__(
        self, f: FlowMap, target: Target, flow: Flow, x: Tensor, c: Condition, k: int, draws: Draws
    ) -> MapTerms:
        """Loss, t and s of each sample of x [B, ...] at optimiser step k."""
        return self.at(k)(f, target, flow, x, c, k, draws)

    def joint_mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability of each pair of cells of (t, s) at step k -> [E-1, E-1]."""
        return self.at(k).joint_mass(edges, k)

    def progress(self, k: int) -> dict[str, float]:
        """The gap."""
        return self.gap.progress(k)
