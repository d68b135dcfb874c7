"""CT and CD of 2303.01469 in the limit of a fine grid (appendix B): what `continuous` improves on.

With squared distances and weights 1/(t - r), the gradient of `Discrete` tends to that of `PseudoObjective`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from consistency.errors import at_least
from consistency.model.condition import Condition
from consistency.model.maps import Map
from consistency.objectives.derivative import Derivative
from consistency.objectives.flow import Flow
from consistency.objectives.target import Target
from consistency.objectives.weighting import Weight
from consistency.schedule.draws import Draws
from consistency.schedule.noise import NoiseLaw
from consistency.tensor import Terms, expand, perturb, same_dropout


@dataclass(frozen=True)
class PseudoObjective:
    """2 λ mean(f sg df/dσ), whose gradient is that of the limit, and whose value is no measure of progress.

    2303.01469, theorems 5 and 6, without the factor of the change of time, as in its code.

    Args:
        noise: law of σ; the code's is uniform in σ^(1/7).
        derivative: how df is taken.
        weight: λ, called as weight(σ, 0).
        sigma_min: where f is the identity.
    """

    noise: NoiseLaw
    derivative: Derivative
    weight: Weight
    sigma_min: float = 0.002

    def __post_init__(self) -> None:
        at_least("objective", 0, sigma_min=self.sigma_min)

    def __call__(
        self, f: Map, target: Target, flow: Flow, x: Tensor, c: Condition, k: int, draws: Draws
    ) -> Terms:
        """Loss and σ of each sample of x [B, ...]."""
        x_t, sigma, v = self.place(flow, x, c, draws)
        with torch.no_grad(), same_dropout(x.device):
            slope = self.slope(target(f), x_t, sigma, v, c)
        y = f(x_t, sigma, c)
        return Terms(2 * self.weigh(sigma) * (y * slope).flatten(1).mean(1), sigma)

    def place(self, flow: Flow, x: Tensor, c: Condition, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Noise x: x_t [B, ...], σ [B], and where the flow goes from there, dx/dσ [B, ...]."""
        sigma, z = self.noise.sample(len(x), draws, x.device), draws.normal(x)
        x_t = perturb(x, z, sigma)
        return x_t, sigma, flow.velocity(x_t, sigma, x, z, c)

    def slope(self, f: Map, x_t: Tensor, sigma: Tensor, v: Tensor, c: Condition) -> Tensor:
        """df/dσ [B, ...] along the velocity v: that by ln σ, which stays small, divided by σ."""
        scale = expand(sigma, x_t)
        return self.derivative(f, x_t, sigma, c, scale * v, sigma)[1] / scale

    def weigh(self, sigma: Tensor) -> Tensor:
        """λ(σ) [B]."""
        return self.weight(sigma, torch.zeros_like(sigma))

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that σ falls between neighbouring edges [E] -> [E-1]."""
        return self.noise.mass(edges)

    def progress(self, k: int) -> dict[str, float]:
        """Nothing changes with the step."""
        return {}


@dataclass(frozen=True)
class SlopeNorm(PseudoObjective):
    """λ ‖df/dσ‖, its gradient taken through the derivative (theorem 3; a norm, as in its code, not a square).

    For distillation: with the one-sample velocity of data, its variance would be part of what is minimised.
    """

    def __call__(
        self, f: Map, target: Target, flow: Flow, x: Tensor, c: Condition, k: int, draws: Draws
    ) -> Terms:
        """Loss and σ of each sample of x [B, ...]."""
        x_t, sigma, v = self.place(flow, x, c, draws)
        slope = self.slope(f, x_t, sigma, v, c)
        return Terms(self.weigh(sigma) * torch.linalg.vector_norm(slope.flatten(1), dim=1), sigma)
