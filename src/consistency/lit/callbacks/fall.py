"""Whether the loss falls, for `debug=overfit`: mean loss of the first and of the last steps."""

from collections.abc import Sequence
from math import inf, sqrt
from statistics import fmean
from typing import Any

from lightning import Callback, LightningModule, Trainer

from consistency.errors import at_least
from consistency.process.rank import is_first

ERRORS = 2.0  # standard errors by which the means must differ: σ and z vary from step to step


class Fall(Callback):
    """Prints the mean loss of the first steps beside that of the last steps, of this process.

    Args:
        window: number of steps in each mean, 1 or greater; half of the steps where there are fewer.
    """

    def __init__(self, window: int = 50) -> None:
        at_least("callbacks.fall", window=window)
        self.window = window
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Any], *_: object
    ) -> None:
        """Keep the loss."""
        self.losses.append(float(outputs["loss"].detach()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print both means."""
        if self.losses and is_first():
            print(self.line(), flush=True)

    def line(self) -> str:
        """Both means, and whether the loss falls."""
        first, last = self.windows()
        outcome = "it falls" if self.falls() else "it does not fall beyond the noise"
        return (
            f"loss on one batch: {mean_text(first)} over the first {len(first)} steps, "
            f"{mean_text(last)} over the last"
            f"; {outcome} ({standard_errors(first, last):.1f} standard errors, and {ERRORS:g} are needed)"
        )

    def falls(self) -> bool:
        """Whether the second mean is below the first by more than chance explains."""
        return standard_errors(*self.windows()) > ERRORS

    def windows(self) -> tuple[list[float], list[float]]:
        """The losses of the first steps, and those of the last steps."""
        width = max(min(self.window, len(self.losses) // 2), 1)
        return self.losses[:width], self.losses[-width:]


def mean_text(losses: Sequence[float]) -> str:
    """The mean and its standard error, such as `0.5 ± 0.01`."""
    return f"{fmean(losses):.4g} ± {sqrt(variance_of_mean(losses)):.2g}"


def standard_errors(first: Sequence[float], last: Sequence[float]) -> float:
    """The fall of the mean in standard errors of the difference; 0 where these are 0 for want of losses."""
    fall, variance = fmean(first) - fmean(last), variance_of_mean(first) + variance_of_mean(last)
    if variance > 0:
        return fall / sqrt(variance)
    return inf if fall > 0 and len(first) > 1 else 0.0


def variance_of_mean(losses: Sequence[float]) -> float:
    """The square of the standard error of a mean; 0 for a single loss."""
    center, count = fmean(losses), len(losses)
    return sum((loss - center) * (loss - center) for loss in losses) / (count * max(count - 1, 1))
