"""Metrics of samples, owned by callbacks, so that no extractor is averaged or saved."""

import torch
from lightning import Callback, Trainer
from torch import Tensor

from consistency.lit.data.loader import Request
from consistency.lit.module import Module
from consistency.metrics.judge import Judge
from consistency.tensor import expand


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
        self.judge.begin(trainer.datamodule.real(), pl_module.device)  # type: ignore[attr-defined]

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: dict[str, Tensor], batch: Request, *_: object
    ) -> None:
        """Show the samples, as a person would see them: quantised."""
        for name, x in outputs.items():
            self.judge.update(name, trainer.datamodule.decode(x))  # type: ignore[attr-defined]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Log the numbers."""
        self.step = trainer.global_step
        pl_module.log_dict(self.judge.compute(), rank_zero_only=False, sync_dist=False)


class OracleGap(Callback):
    """Root mean square distance to the exact function at σ_max, where the density of the data is known.

    A consistency model is held against the exact consistency function, a teacher against the exact denoiser.

    Args:
        sigma: σ_max, where the one step starts.
        sigma_min: ε, where the exact function ends.
        points: number of points compared, the same at every validation.
    """

    measures = ("oracle_rmse",)

    def __init__(self, sigma: float, sigma_min: float, points: int = 2048) -> None:
        self.sigma, self.sigma_min, self.points = sigma, sigma_min, points
        self.x: Tensor | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Compare and log `oracle_rmse`, the mean over points and coordinates."""
        density = trainer.datamodule.density  # type: ignore[attr-defined]
        if density is None:
            return
        if self.x is None:
            self._prepare(density)
        assert self.x is not None
        x, sigma = self.x.to(pl_module.device), self.at.to(pl_module.device)
        with torch.no_grad():
            error = pl_module.denoiser(x.float(), sigma).double().cpu() - self.exact
        pl_module.log("oracle_rmse", error.square().mean().sqrt().item(), rank_zero_only=False)

    def _prepare(self, density: object) -> None:
        generator = torch.Generator().manual_seed(0)
        clean = density.sample(self.points, generator)  # type: ignore[attr-defined]
        self.at = torch.full((self.points,), self.sigma, dtype=torch.float64)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        self.x = clean + expand(self.at, clean) * noise
        self.exact = density.consistency(self.x, self.at, self.sigma_min)  # type: ignore[attr-defined]
