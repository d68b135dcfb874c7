"""Teachers: a denoiser learned from data."""

from typing import Unpack

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.lit.data.module import data_of
from consistency.lit.module import Module, RunArguments, without_augmentation
from consistency.model.condition import Condition
from consistency.model.maps import Denoiser
from consistency.objectives.denoising import Denoising
from consistency.schedule.draws import Draws, StepDraws
from consistency.tensor import Terms
from consistency.truth.oracle import Mixture


class Diffusion(Module):
    """Denoising score matching (2206.00364).

    Args:
        objective: law of σ, distance and weight.
        **run: arguments of `Module`: model, optimizer, rate, samplers and seed.
    """

    learns = Denoiser

    def __init__(self, objective: Denoising, **run: Unpack[RunArguments]) -> None:
        super().__init__(**run)
        self.objective = objective

    def setup(self, stage: str) -> None:
        """Refuse an augmentation that suits neither data nor network, before anything is written."""
        if stage == "fit":
            x = torch.zeros(1, *data_of(self.trainer).shape)
            labels = self.objective.augmentation(x, StepDraws(0))[1]
            check_labels(labels, self.model.net)
            if labels is None:
                without_augmentation(self.model.net)

    def terms(self, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms:
        """Loss and σ of each sample."""
        return self.objective(self.model, x, c, k, draws)

    def exact(self, density: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
        """The posterior mean E[x_0 | x]."""
        return density.denoise(x, sigma)

    def progress(self, k: int) -> dict[str, float]:
        """Nothing changes with the step."""
        return self.objective.progress(k)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that σ falls between neighbouring edges."""
        return self.objective.mass(edges, k)


def check_labels(labels: Tensor | None, net: nn.Module) -> None:
    """Refuse labels of augmentation that the network has no place for."""
    told, asks = 0 if labels is None else labels.shape[1], getattr(net, "augment", 0)
    if told not in (0, asks):
        raise UserError(
            f"augmentation labels are {told} numbers but net.augment={asks}: use a U-Net with "
            f"net.augment={told}, or augmentation=none"
        )
