"""What a run of a sweep reports while it trains."""

import math

from lightning import Callback, Trainer

from consistency.lit.module import Module
from consistency.metrics.choice import pick
from consistency.process.lifeline import held, report


class Reports(Callback):
    """Sends the metric that a sweep optimises to the sweep, after each validation of training.

    Args:
        metric: its name, or the end of it after /; None for a sweep that optimises nothing.
    """

    def __init__(self, metric: str | None) -> None:
        self.metric = metric

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Send it; None in place of a number that is not finite."""
        if not (held() and self.metric and trainer.is_global_zero and trainer.state.fn == "fit"):
            return
        value = pick(self.metric, trainer.callback_metrics)
        finite = value is not None and math.isfinite(value)
        report(step=trainer.global_step, value=value if finite else None)
