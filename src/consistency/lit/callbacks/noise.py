"""The loss by noise level: its mean over all levels depends on the law of σ, and does not show progress."""

from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from consistency.errors import within
from consistency.lit.loggers.base import every, log, log_picture
from consistency.lit.module import Module
from consistency.schedule.sigma import Sigma
from consistency.tensor import geometric


class NoiseLevels(Callback):
    """Logs the mean loss in bins of σ, and a histogram of σ beside the law from which it is drawn.

    Args:
        sigma_min: lower edge of the first bin.
        sigma_max: upper edge of the last bin.
        bins: number of bins, equally wide in ln σ.
    """

    def __init__(self, sigma_min: float, sigma_max: float, bins: int = 12) -> None:
        Sigma(sigma_min, sigma_max)
        within("callbacks.noise", 1, 1000, bins=bins)
        # The outermost edges are moved by 1e-6, so that noise levels equal to them fall into a bin.
        self.edges = geometric(sigma_min, sigma_max, bins + 1)
        self.edges[0] *= 1 - 1e-6
        self.edges[-1] *= 1 + 1e-6
        self.sums = torch.zeros(2, bins, dtype=torch.float64)  # loss and count since the last log
        self.drawn = torch.zeros(bins, dtype=torch.float64)  # count since the last validation

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: dict[str, Tensor], batch: Any, index: int
    ) -> None:
        """Add the batch to the bins, on its device; log the means when other scalars are logged."""
        sigma, loss = outputs["sigma"].double(), outputs["per_sample"].double()
        self.edges, self.sums = self.edges.to(sigma.device), self.sums.to(sigma.device)
        bins = (torch.bucketize(sigma, self.edges) - 1).clamp(0, self.sums.shape[1] - 1)
        self.sums.index_add_(1, bins, torch.stack([loss, torch.ones_like(loss)]))
        if trainer.global_step % every(trainer) == 0:
            self._log_means(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Log the histogram of σ since the last validation, beside the law."""
        drawn, edges = self.drawn + self.sums[1].cpu(), self.edges.cpu()
        if not drawn.sum() or not trainer.is_global_zero:
            return
        law = pl_module.mass(edges, max(trainer.global_step - 1, 0))
        log_picture(trainer, "sigma/histogram", lambda: histogram(edges, drawn / drawn.sum(), law))
        self.drawn.zero_()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """Add the sums since the last log, averaged over processes, and the counts since a validation."""
        sums = torch.as_tensor(trainer.strategy.reduce(self.sums.clone(), reduce_op="mean"))
        checkpoint["callbacks"][self.state_key] = {"sums": sums, "drawn": self.drawn}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Load the sums and counts, unless the number of bins has changed."""
        if state_dict["drawn"].shape == self.drawn.shape:
            self.sums, self.drawn = state_dict["sums"], state_dict["drawn"]

    def _log_means(self, trainer: Trainer) -> None:
        loss, count = torch.as_tensor(trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")).cpu()
        edges = self.edges.tolist()
        bins = zip(edges, edges[1:], (loss / count).tolist(), strict=False)
        means = {f"loss_by_sigma/{low:.3g}-{high:.3g}": mean for low, high, mean in bins if mean == mean}
        log(trainer, means, trainer.global_step)
        self.drawn += self.sums[1].cpu()
        self.sums.zero_()


def histogram(edges: Tensor, drawn: Tensor, law: Tensor) -> Any:
    """A figure: shares of the σ drawn in each bin [E-1] as bars, and the law's mass as a line; edges [E]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    left, width = edges[:-1].numpy(), edges.diff().numpy()
    axes.bar(left, drawn.numpy(), width, align="edge", color="#8fb8de", edgecolor="white", label="drawn")
    axes.stairs(law.numpy(), edges.numpy(), color="#b03a2e", linewidth=1.5, label="law")
    axes.set(xscale="log", xlabel="σ", ylabel="share of samples")
    axes.legend(frameon=False)
    return figure
