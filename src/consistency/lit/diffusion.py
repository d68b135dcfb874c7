"""Diffusion training: a denoiser D(x, σ), the teacher of consistency distillation."""

from typing import Unpack

from torch import Tensor

from consistency.lit.augmented import fit_augmentation
from consistency.lit.data.module import data_of
from consistency.lit.module import Module, RunArguments
from consistency.model.condition import Condition
from consistency.model.maps import Denoiser
from consistency.objectives.denoising import Denoising
from consistency.schedule.draws import Draws
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
            fit_augmentation(self.objective.augmentation, self.model.net, data_of(self.trainer).shape)

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
