"""Metrics of samples, owned by callbacks, so that no extractor is averaged or saved."""

from collections.abc import Sequence

import torch
from lightning import Callback, Trainer
from torch import Tensor

from consistency.lit.data.loader import Request
from consistency.lit.data.module import data_of
from consistency.lit.module import Module
from consistency.metrics.judge import Judge
from consistency.tensor import perturb
from consistency.truth.oracle import Mixture


class Evaluation(Callback):
    """Hands the samples of a validation to a judge, and logs what it says.

    Args:
        judge: Fréchet distance for images, transport for points.
    """

    measures = ("floor",)  # beside what is named after the samplers

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.step: int | None = None  # of the last numbers

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Show the data."""
        self.judge.begin(data_of(trainer).real(), pl_module.device)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: dict[str, Tensor], batch: Request, *_: object
    ) -> None:
        """Show the samples, as a person would see them: quantised."""
        for name, x in outputs.items():
            self.judge.update(name, data_of(trainer).decode(x))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Log the numbers."""
        self.step = trainer.global_step
        pl_module.log_dict(self.judge.compute(), rank_zero_only=False, sync_dist=False)


class OracleGap(Callback):
    """Root mean square distance to the exact function, where the density of the data is known.

    Args:
        sigmas: noise levels compared at; one step starts at σ_max alone.
        points: number of points compared at each level, the same at every validation.
    """

    measures = ("oracle_rmse",)

    def __init__(self, sigmas: Sequence[float], points: int = 2048) -> None:
        self.sigmas, self.points = list(sigmas), points
        self.exact: Tensor | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Compare and log `oracle_rmse`, over points and coordinates."""
        density = data_of(trainer).density
        if density is None:
            return
        if self.exact is None:
            self._draw(density)
            self.exact = pl_module.exact(density, self.x, self.sigma)
        x, sigma = self.x.to(pl_module.device), self.sigma.to(pl_module.device)
        with torch.no_grad():
            error = pl_module.denoiser(x.float(), sigma).double().cpu() - self.exact
        pl_module.log("oracle_rmse", error.square().mean().sqrt().item(), rank_zero_only=False)

    def _draw(self, density: Mixture) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sigma = torch.tensor(self.sigmas, dtype=torch.float64).repeat_interleave(self.points)
        clean = density.sample(len(self.sigma), generator)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        self.x = perturb(clean, noise, self.sigma)
