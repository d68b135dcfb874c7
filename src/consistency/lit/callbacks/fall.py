"""Does the loss fall?"""

from statistics import fmean
from typing import Any

from lightning import Callback, Trainer

from consistency.errors import at_least
from consistency.lit.module import Module
from consistency.process.rank import is_first


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
        self, trainer: Trainer, pl_module: Module, outputs: dict[str, Any], *_: object
    ) -> None:
        """Keep the loss."""
        self.losses.append(float(outputs["loss"].detach()))

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Say what has become of it."""
        if self.losses and is_first():
            print(self.line(), flush=True)

    def line(self) -> str:
        """Both means, and what they say."""
        width = max(min(self.window, len(self.losses) // 2), 1)
        first, last = fmean(self.losses[:width]), fmean(self.losses[-width:])
        said = (
            "it falls" if last < first else "it does not fall: try another optimizer.lr, or look for a fault"
        )
        return (
            f"loss on one batch: {first:.4g} over the first {width} steps, {last:.4g} over the last; {said}"
        )
