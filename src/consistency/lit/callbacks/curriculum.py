"""Logs what a method changes with the step, such as N(k) and μ(k)."""

from typing import Any

from lightning import Callback, Trainer

from consistency.errors import UserError, at_least
from consistency.lit.loggers.base import log
from consistency.lit.module import Module


class Curriculum(Callback):
    """Logs N(k) and μ(k) at every change, and refuses a run whose horizon is not its length.

    Args:
        horizon: K, the curriculum's length in optimiser steps; None where it has no end.
    """

    def __init__(self, horizon: int | None = None) -> None:
        if horizon is not None:
            at_least("curriculum", K=horizon)
        self.horizon, self.last = horizon, {}

    def on_fit_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Compare the horizon with the length of the run."""
        if self.horizon is not None and self.horizon != trainer.max_steps:
            raise UserError(
                f"curriculum.K={self.horizon} but trainer.max_steps={trainer.max_steps}: the schedule and "
                "the run would end at different steps; leave curriculum.K to follow trainer.max_steps, "
                "or set them alike"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Log the quantities if one has changed since the last step."""
        progress = pl_module.progress(trainer.global_step)
        if progress != self.last:
            named = {f"curriculum/{name}": value for name, value in progress.items()}
            log(trainer, named, trainer.global_step)
        self.last = progress

    def state_dict(self) -> dict[str, Any]:
        """The quantities that were logged last."""
        return {"last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load them: what has not changed is not logged again."""
        self.last = state_dict["last"]
