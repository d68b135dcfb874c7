"""Does the loss fall?"""

from collections.abc import Sequence
from math import inf, sqrt
from statistics import fmean
from typing import Any

from lightning import Callback, LightningModule, Trainer

from consistency.errors import at_least
from consistency.process.rank import is_first

ERRORS = 2.0  # standard errors that the means differ by where the loss falls: σ and z vary from step to step


class Fall(Callback):
    """Prints the mean loss of the first steps beside that of the last ones, of this process.

    Args:
        window: steps that each of the two means is over, 1 or greater.
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
        """Say what has become of it."""
        if self.losses and is_first():
            print(self.line(), flush=True)

    def line(self) -> str:
        """Both means, and what they say."""
        first, last = self.windows()
        said = "it falls" if self.falls() else "it does not fall beyond the noise"
        return (
            f"loss on one batch: {mean(first)} over the first {len(first)} steps, {mean(last)} over the last"
            f"; {said} ({errors(first, last):.1f} standard errors, and {ERRORS:g} are needed)"
        )

    def falls(self) -> bool:
        """Whether the second mean is below the first by more than chance explains."""
        return errors(*self.windows()) > ERRORS

    def windows(self) -> tuple[list[float], list[float]]:
        """The losses of the first steps, and those of the last ones."""
        width = max(min(self.window, len(self.losses) // 2), 1)
        return self.losses[:width], self.losses[-width:]


def mean(losses: Sequence[float]) -> str:
    """The mean and its standard error."""
    return f"{fmean(losses):.4g} ± {sqrt(variance_of_mean(losses)):.2g}"


def errors(first: Sequence[float], last: Sequence[float]) -> float:
    """How far the mean falls, in standard errors of the difference; 0 where nothing can be said of them."""
    fall, variance = fmean(first) - fmean(last), variance_of_mean(first) + variance_of_mean(last)
    if variance > 0:
        return fall / sqrt(variance)
    return inf if fall > 0 and len(first) > 1 else 0.0


def variance_of_mean(losses: Sequence[float]) -> float:
    """The square of the standard error of a mean; 0 for a single loss."""
    center, count = fmean(losses), len(losses)
    return sum((loss - center) * (loss - center) for loss in losses) / (count * max(count - 1, 1))
