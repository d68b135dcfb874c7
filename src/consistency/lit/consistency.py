"""What training and distillation share: two ends of a trajectory that must map to one point."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from consistency.lit.module import Module
from consistency.model.denoiser import Denoiser
from consistency.objectives.discrete import Discrete
from consistency.objectives.target import Target
from consistency.truth.oracle import Mixture


class Consistency(Module):
    """A consistency function f with its target; one hole left, `terms`.

    Args:
        objective: pairs, distance and weight.
        target: f -> whose output is the target.
        **run: denoiser, optimizer, rate, samplers and seed of `Module`.
    """

    def __init__(self, objective: Discrete, target: Callable[[Denoiser], Target], **run: Any) -> None:
        super().__init__(**run)
        self.objective, self.target = objective, target(self.denoiser)

    def exact(self, density: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
        """The consistency function, down to the lowest level of the pairs."""
        return density.consistency(x, sigma, self.objective.pairs.sigma_min)

    def optimizer_step(self, *step: Any, **more: Any) -> None:
        """The optimiser's step, then the target's: here, so that no checkpoint falls between the two."""
        k = self.global_step
        super().optimizer_step(*step, **more)
        self.target.update(self.denoiser, k)

    def progress(self, k: int) -> dict[str, float]:
        """N(k) or the stage, and μ(k)."""
        return {**self.objective.progress(k), **self.target.progress(k)}

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges."""
        return self.objective.mass(edges, k)
