"""The teacher's objective: D(x + σz, σ) = x (2206.00364, eq. 2). A pair that ends in the data."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from consistency.model.condition import Condition
from consistency.model.maps import DenoiserLike
from consistency.objectives.augmentation import Augmentation, NoAugmentation
from consistency.objectives.distance import Distance
from consistency.objectives.weighting import Weight
from consistency.schedule.draws import Draws
from consistency.schedule.noise import NoiseLaw
from consistency.tensor import Terms, perturb


@dataclass(frozen=True)
class Denoising:
    """λ(σ) d(D(x + σz, σ), x) with σ ~ noise.

    Args:
        noise: law of σ.
        distance: d; the mean of squares for EDM.
        weight: λ, called as weight(σ, 0).
        augmentation: x -> what is learned instead, and the label that tells the network so.
    """

    noise: NoiseLaw
    distance: Distance
    weight: Weight
    augmentation: Augmentation = field(default_factory=NoAugmentation)

    def __call__(self, D: DenoiserLike, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms:
        """Loss and σ of each sample of x [B, ...]."""
        sigma = self.noise.sample(len(x), draws, x.device)
        x, how = self.augmentation(x, draws)
        D_x = D(perturb(x, draws.normal(x), sigma), sigma, c._replace(augment=how))
        return Terms(self.weight(sigma, torch.zeros_like(sigma)) * self.distance(D_x, x), sigma)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that σ falls between neighbouring edges [E] -> [E-1]."""
        return self.noise.mass(edges)

    def progress(self, k: int) -> dict[str, float]:
        """Nothing changes with the step."""
        return {}
