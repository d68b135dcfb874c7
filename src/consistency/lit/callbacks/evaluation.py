"""Metrics of a validation. Callbacks own them, so that feature extractors are neither averaged nor saved."""

from collections.abc import Iterable, Sequence

import torch
from lightning import Callback, Trainer
from torch import Tensor

from consistency.data.loader import Request
from consistency.errors import UserError, within
from consistency.lit.data.module import DataModule, data_of
from consistency.lit.module import Module
from consistency.metrics.judge import Judge
from consistency.schedule.sigma import Sigma
from consistency.tensor import geometric, perturb
from consistency.truth.oracle import Mixture
from consistency.watch import in_pieces, tick

AT_ONCE = 4096  # points at which the exact function is computed at a time
MOST_POINTS = 2**20  # the exact function of more would take hours


class Evaluation(Callback):
    """Passes the samples of a validation to a judge, and logs its metrics.

    Args:
        judge: computes metrics: Fréchet distance for images, transport for points.
    """

    measures = ("floor",)  # names of metrics beside those named after the samplers

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.step: int | None = None  # of the last metrics

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Pass the data to the judge."""
        self.judge.begin(data_of(trainer).real(), pl_module.device)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: dict[str, Tensor], batch: Request, *_: object
    ) -> None:
        """Pass the samples to the judge, decoded: images as uint8."""
        for name, x in outputs.items():
            self.judge.update(name, data_of(trainer).codec.decode(x))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Log the metrics."""
        self.step = trainer.global_step
        pl_module.log_dict(self.judge.compute(), rank_zero_only=False, sync_dist=False)


def check_judges(callbacks: Iterable[Callback], data: DataModule) -> None:
    """Refuse, before training, metrics that cannot be computed from the data and the number of samples."""
    for judge in (callback.judge for callback in callbacks if isinstance(callback, Evaluation)):
        judge.check(data.stored_shape, len(data.data), data.samples, "data.samples")


class OracleGap(Callback):
    """Root mean square distance to the exact function, where the density of the data is known.

    Args:
        sigmas: noise levels of `oracle_rmse`, an average over all of them; one-step samplers need only σ_max.
        points: number of points compared at each of these levels, the same at every validation.
        lowest: lowest σ of `oracle_rmse_mean`, whose levels are evenly spaced in ln σ.
        highest: highest σ of `oracle_rmse_mean`.
        levels: number of levels of `oracle_rmse_mean`; points/levels points are compared at each.
    """

    measures = ("oracle_rmse", "oracle_rmse_mean")

    def __init__(
        self,
        sigmas: Sequence[float],
        points: int = 2048,
        lowest: float = 0.01,
        highest: float = 80.0,
        levels: int = 16,
    ) -> None:
        if not 0 < levels <= points:
            raise UserError(
                f"callbacks.oracle.levels={levels} must be at least 1, and at most points={points}"
            )
        within("callbacks.oracle", 1, MOST_POINTS, points=points)
        Sigma(lowest, highest)
        if not sigmas or not all(0 < sigma <= 1e6 for sigma in sigmas):
            raise UserError(f"callbacks.oracle.sigmas={list(sigmas)} must be noise levels greater than 0")
        self.sigmas, self.points, self.levels = list(sigmas), points, levels
        self.spread = geometric(lowest, highest, levels)
        self.exact: Tensor | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Log `oracle_rmse`, over points and coordinates, and `oracle_rmse_mean`, its mean over levels."""
        density = data_of(trainer).density
        if density is None:
            return
        if self.exact is None:
            self._draw_points(density)
            self.exact = self._compute_exact(density, pl_module)
        x, sigma = self.x.to(pl_module.device), self.sigma.to(pl_module.device)
        with torch.no_grad(), in_pieces("gap to the exact function", len(x)):
            error = pl_module.paced_one_time()(x.float(), sigma).double().cpu() - self.exact
        first = len(self.sigmas) * self.points
        by_level = error[first:].reshape(self.levels, -1)
        pl_module.log("oracle_rmse", rms(error[:first].flatten(), 0).item(), rank_zero_only=False)
        pl_module.log("oracle_rmse_mean", rms(by_level, 1).mean().item(), rank_zero_only=False)

    def _compute_exact(self, density: Mixture, module: Module) -> Tensor:
        with in_pieces("exact function", len(self.x)):
            parts = []
            for x, sigma in zip(self.x.split(AT_ONCE), self.sigma.split(AT_ONCE), strict=True):
                parts.append(module.exact(density, x, sigma))
                tick(len(x))
        return torch.cat(parts)

    def _draw_points(self, density: Mixture) -> None:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.tensor(self.sigmas, dtype=torch.float64).repeat_interleave(self.points)
        self.sigma = torch.cat([chosen, self.spread.repeat_interleave(self.points // self.levels)])
        parts = [draw_noised(density, sigma, generator) for sigma in (chosen, self.sigma[len(chosen) :])]
        self.x = torch.cat(parts)


def draw_noised(density: Mixture, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """A noised sample x + σz of the density at each noise level [n] -> [n, ...], float64."""
    clean = density.sample(len(sigma), generator)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return perturb(clean, noise, sigma)


def rms(x: Tensor, dim: int) -> Tensor:
    """Root mean square of x along an axis."""
    return x.square().mean(dim).sqrt()
