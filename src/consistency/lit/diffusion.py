"""Teachers: a denoiser learned from data."""

from typing import Any

from torch import Tensor

from consistency.lit.module import Module
from consistency.objectives.denoising import Denoising
from consistency.schedule.draws import Draws
from consistency.tensor import Terms
from consistency.truth.oracle import Mixture


class Diffusion(Module):
    """Denoising score matching (2206.00364).

    Args:
        objective: law of σ, distance and weight.
        **run: denoiser, optimizer, rate, samplers and seed of `Module`.
    """

    def __init__(self, objective: Denoising, **run: Any) -> None:
        super().__init__(**run)
        self.objective = objective

    def terms(self, x: Tensor, label: Tensor | None, k: int, draws: Draws) -> Terms:
        """Loss and σ of each sample."""
        return self.objective(self.denoiser, x, label, k, draws)

    def exact(self, density: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
        """The posterior mean E[x_0 | x]."""
        return density.denoise(x, sigma)

    def progress(self, k: int) -> dict[str, float]:
        """Nothing changes with the step."""
        return self.objective.progress(k)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that σ falls between neighbouring edges."""
        return self.objective.mass(edges, k)
