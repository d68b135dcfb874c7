"""Consistency training: a one-step generator learned from data alone."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from consistency.lit.module import Module
from consistency.model.denoiser import Denoiser
from consistency.objectives.discrete import Discrete
from consistency.objectives.flow import Flow
from consistency.objectives.target import Target
from consistency.schedule.draws import Draws
from consistency.tensor import Terms
from consistency.truth.oracle import Mixture


class Training(Module):
    """CT (2303.01469), iCT (2310.14189): the same step with other parts plugged in.

    Args:
        objective: pairs, distance and weight.
        flow: where x_t goes next.
        target: f -> whose output is the target.
        **run: denoiser, optimizer, rate, samplers and seed of `Module`.
    """

    def __init__(
        self, objective: Discrete, flow: Flow, target: Callable[[Denoiser], Target], **run: Any
    ) -> None:
        super().__init__(**run)
        self.objective, self.flow, self.target = objective, flow, target(self.denoiser)

    def terms(self, x: Tensor, label: Tensor | None, k: int, draws: Draws) -> Terms:
        """Loss and t of each sample."""
        return self.objective(self.denoiser, self.target, self.flow, x, label, k, draws)

    def exact(self, density: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
        """The consistency function, down to the lowest level of the pairs."""
        return density.consistency(x, sigma, self.objective.pairs.sigma_min)

    def optimizer_step(self, *step: Any, **more: Any) -> None:
        """The optimiser's step, then the target's: here, so that no checkpoint falls between the two."""
        k = self.global_step
        super().optimizer_step(*step, **more)
        self.target.update(self.denoiser, k)

    def progress(self, k: int) -> dict[str, float]:
        """N(k) and μ(k)."""
        return {**self.objective.progress(k), **self.target.progress(k)}

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges."""
        return self.objective.mass(edges, k)
