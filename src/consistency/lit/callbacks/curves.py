"""The curves of training: logging them, and cutting the logs back to the checkpoint of a resumed run."""

from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer

from consistency.lit.loggers.base import LOG, Positions, every, log, positions, run_loggers


class Curves(Callback):
    """Logs `train/...` before a checkpoint of the same step is written, so that no point is lost by a kill.

    Lightning would log it later. Each checkpoint keeps the length of the logs, to which a run that resumes
    from it cuts them back (`Rewind`).
    """

    def __init__(self) -> None:
        self.step = 0  # of the last batch
        self.resumed: Positions = {}  # of the checkpoint: kept for loggers that this run does not use
        self.positions: Positions | None = None  # replaces the lengths of the logs in the next checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the step of the checkpoint."""
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log every `trainer.log_every_n_steps` optimiser steps, under the step's number counted from 0."""
        k = trainer.global_step
        if k == self.step:
            return
        self.step = k
        if k % every(trainer) == 0:
            found = trainer.callback_metrics
            values = {name: float(value) for name, value in found.items() if name.startswith("train/")}
            log(trainer, {**values, "epoch": trainer.current_epoch}, k - 1)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the lengths of the logs."""
        if trainer.is_global_zero:
            now = {**self.resumed, **positions(trainer)}
            checkpoint[LOG] = now if self.positions is None else dict(self.positions)


class Rewind(Callback):
    """Cuts the logs back to the checkpoint that a run resumes from, when all checks of the run have passed.

    It must stand before all callbacks that log.
    """

    def __init__(self) -> None:
        self.cuts: list[Callable[[], None]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the logs, once."""
        for cut in self.cuts if trainer.is_global_zero else ():
            cut()
        self.cuts = []


def rewind(trainer: Trainer, found: Positions | None, step: int) -> None:
    """Prepare `Rewind` to cut the logs to their lengths at a checkpoint, when training starts.

    Args:
        trainer: of a run that has logged nothing yet.
        found: lengths of the logs at the checkpoint; empty for a new run. None where a checkpoint of an older
            version has none, and the logs are left as they are.
        step: of the checkpoint; 0 for a new run.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Rewind) and found is not None:
            callback.cuts = [logger.rewind(found, step) for logger in run_loggers(trainer)]
        if isinstance(callback, Curves):
            callback.resumed = found or {}


def keep_log(trainer: Trainer, found: Positions | None) -> None:
    """Leave the logs as they are, but write their lengths at an earlier checkpoint to the next one.

    Args:
        trainer: of a run that trains no further.
        found: lengths of the logs at the earlier checkpoint.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Curves):
            callback.positions = found
