"""Diffusion training: a denoiser D(x, σ), the teacher of consistency distillation."""

from typing import Unpack

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.lit.data.module import data_of
from consistency.lit.module import Module, RunArguments, freeze_augmentation_labels
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
        """Refuse an augmentation that does not fit the data or the network, before anything is written."""
        if stage == "fit":
            x = torch.zeros(1, *data_of(self.trainer).shape)
            labels = self.objective.augmentation(x, StepDraws(0))[1]
            check_augmentation_labels(labels, self.model.net)
            if labels is None:
                freeze_augmentation_labels(self.model.net)

    def terms(self, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms:
        """Loss [B] and σ [B] of each sample of x [B, ...] at step k."""
        return self.objective(self.model, x, c, k, draws)

    def exact(self, density: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
        """The posterior mean E[x_0 | x] [B, ...] at noise level σ [B]."""
        return density.denoise(x, sigma)

    def progress(self, k: int) -> dict[str, float]:
        """Quantities of the objective that change with step k, by name."""
        return self.objective.progress(k)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that σ falls between neighbouring edges."""
        return self.objective.mass(edges, k)


def check_augmentation_labels(labels: Tensor | None, net: nn.Module) -> None:
    """Refuse augmentation labels [B, L] where the network has no input of L numbers for them."""
    drawn, accepted = 0 if labels is None else labels.shape[1], getattr(net, "augment", 0)
    if drawn not in (0, accepted):
        raise UserError(
            f"augmentation labels are {drawn} numbers but net.augment={accepted}: use a U-Net with "
            f"net.augment={drawn}, or augmentation=none"
        )
