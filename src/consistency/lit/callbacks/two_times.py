"""Flow maps: the loss by s/t, the pairs (t, s) beside their law, and the distance to the exact map."""

from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from consistency.errors import within
from consistency.lit.callbacks.evaluation import MOST_POINTS, draw_noised, rms
from consistency.lit.callbacks.progress import every
from consistency.lit.data.module import data_of
from consistency.lit.flow_map import FlowMapModule
from consistency.lit.loggers.base import log, log_picture
from consistency.lit.module import Module
from consistency.model.maps import FlowMap
from consistency.schedule.sigma import Sigma
from consistency.tensor import geometric
from consistency.truth.oracle import Mixture
from consistency.watch import in_pieces

RATIOS = ("0", "0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1", "1")  # of s/t, whose losses mean different things


class TwoTimeLevels(Callback):
    """Mean loss in bins of s/t, of which s = 0 and s = t are two, and the histogram of (t, s) beside its law.

    Args:
        sigma_min: lower edge of the first bin of t and s.
        sigma_max: upper edge of the last bin.
        bins: of each, equally wide in their logarithm.
    """

    def __init__(self, sigma_min: float, sigma_max: float, bins: int = 24) -> None:
        Sigma(sigma_min, sigma_max)
        within("callbacks.two_times", 1, 1000, bins=bins)
        self.edges = geometric(sigma_min, sigma_max, bins + 1)
        self.sums = torch.zeros(2, len(RATIOS), dtype=torch.float64)  # loss and count since the last log
        self.drawn = torch.zeros(bins, bins, dtype=torch.float64)  # since the last validation

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: dict[str, Tensor], batch: Any, index: int
    ) -> None:
        """Sort the batch into bins; log the means when the other scalars are logged."""
        t, s, loss = (outputs[name].double().cpu() for name in ("sigma", "s", "per_sample"))
        place = ratio_bin(s / t)
        self.sums.index_add_(1, place, torch.stack([loss, torch.ones_like(loss)]))
        cell = [(torch.bucketize(v, self.edges) - 1).clamp(0, len(self.drawn) - 1) for v in (t, s)]
        self.drawn.index_put_((cell[0], cell[1]), torch.ones_like(t), accumulate=True)
        if trainer.global_step % every(trainer) == 0:
            sums = torch.as_tensor(trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")).cpu()
            means = dict(zip(RATIOS, (sums[0] / sums[1]).tolist(), strict=True))
            log(trainer, {f"loss_by_ratio/{k}": v for k, v in means.items() if v == v}, trainer.global_step)
            self.sums.zero_()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Draw the histogram of (t, s) since the last validation beside the law."""
        if not self.drawn.sum() or not trainer.is_global_zero or not isinstance(pl_module, FlowMapModule):
            return
        law = pl_module.joint_mass(self.edges, max(trainer.global_step - 1, 0))
        drawn = self.drawn / self.drawn.sum()
        log_picture(trainer, "sigma/two_times", lambda: two_histograms(self.edges, drawn, law))
        self.drawn.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """The sums since the last log, and the counts since the last validation."""
        return {"sums": self.sums, "drawn": self.drawn}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Go on adding; not where the bins are others."""
        if state_dict["drawn"].shape == self.drawn.shape:
            self.sums, self.drawn = state_dict["sums"], state_dict["drawn"]


def ratio_bin(ratio: Tensor) -> Tensor:
    """Number of the bin of each s/t [B]."""
    inside = 1 + torch.bucketize(ratio, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    return torch.where(ratio <= 0, 0, torch.where(ratio >= 1, len(RATIOS) - 1, inside))


def two_histograms(edges: Tensor, drawn: Tensor, law: Tensor) -> Any:
    """Shares of the cells of (t, s) as colours: those that were drawn, and those of the law."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    top = max(drawn.max().item(), law.max().item())
    for panel, mass, title in zip(axes, (drawn, law), ("drawn", "law"), strict=True):
        panel.pcolormesh(edges, edges, mass.T, cmap="Blues", vmin=0, vmax=top)
        panel.set(xscale="log", yscale="log", xlabel="t", title=title)
    axes[0].set_ylabel("s (below the first edge: in the lowest row)")
    figure.colorbar(axes[0].collections[0], ax=axes, label="share of samples")
    return figure


class MapGap(Callback):
    """Root mean square distances to the exact map and to the exact denoiser, where the density is known.

    `map_rmse` is the mean over levels t of the distance of X_{t→s} to the exact point, where s/t of each
    sample is the square of a uniform number; `diagonal_rmse` is that of f(x, t, t) to the posterior mean.

    Args:
        lowest: first of the levels t, evenly spaced in ln t.
        highest: last of them.
        levels: how many.
        points: in all, the same at every validation.
    """

    measures = ("map_rmse", "diagonal_rmse")

    def __init__(
        self, lowest: float = 0.01, highest: float = 80.0, levels: int = 16, points: int = 2048
    ) -> None:
        Sigma(lowest, highest)
        within("callbacks.map_oracle", 1, MOST_POINTS, levels=levels, points=points)
        within("callbacks.map_oracle", levels, MOST_POINTS, points=points)
        self.t = geometric(lowest, highest, levels).repeat_interleave(points // levels)
        self.levels = levels
        self.exact: tuple[Tensor, Tensor] | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Compare and log."""
        density = data_of(trainer).density
        if density is None or not isinstance(pl_module.model, FlowMap):
            return
        if self.exact is None:
            self._draw(density)
            self.exact = density.solve(self.x, self.t, self.s), density.denoise(self.x, self.t)
        f, x = pl_module.paced(), self.x.to(pl_module.device)
        t, s = self.t.to(x.device), self.s.to(x.device)
        with torch.no_grad(), in_pieces("gap to the exact map", 2 * len(x)):
            w = (s / t)[(...,) + (None,) * (x.ndim - 1)]
            found = torch.lerp(f(x.float(), t, s).double(), x, w)
            errors = found.cpu() - self.exact[0]
            pl_module.log("map_rmse", self._mean(errors), rank_zero_only=False)
            if pl_module.model.has_diagonal:
                errors = f(x.float(), t, t).double().cpu() - self.exact[1]
                pl_module.log("diagonal_rmse", self._mean(errors), rank_zero_only=False)

    def _mean(self, errors: Tensor) -> float:
        return rms(errors.reshape(self.levels, -1), 1).mean().item()

    def _draw(self, density: Mixture) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = draw_noised(density, self.t, generator)
        self.s = self.t * torch.rand(len(self.t), generator=generator, dtype=torch.float64).square()
