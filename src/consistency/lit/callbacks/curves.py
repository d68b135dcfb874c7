"""The curves of training: what is logged at a step, and how far the log was when a checkpoint was written."""

from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer

from consistency.lit.loggers.base import LOG, Positions, every, log, positions, run_loggers


class Curves(Callback):
    """Logs `train/...` before a checkpoint of the same step is written: after a kill no point is missing.

    Lightning would log it later. Each checkpoint says how far the logs are, to which a run that goes on
    from it cuts them back (`Rewind`).
    """

    def __init__(self) -> None:
        self.step = 0  # of the last batch
        self.resumed: Positions = {}  # those of the checkpoint: loggers that are out of use keep them
        self.positions: Positions | None = None  # in place of those that the logs have

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count on from the step of the checkpoint."""
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log once per optimiser step that is due, at the number of the step counted from 0."""
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
        """Add how far the log is."""
        if trainer.is_global_zero:
            now = {**self.resumed, **positions(trainer)}
            checkpoint[LOG] = now if self.positions is None else dict(self.positions)


class Rewind(Callback):
    """Cuts the logs back to the checkpoint that a run goes on from, when nothing can be refused any more.

    It comes before all callbacks that log.
    """

    def __init__(self) -> None:
        self.cuts: list[Callable[[], None]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut, once."""
        for cut in self.cuts if trainer.is_global_zero else ():
            cut()
        self.cuts = []


def rewind(trainer: Trainer, found: Positions | None, step: int) -> None:
    """Have the logs cut back to what they were at a checkpoint when training starts.

    Args:
        trainer: of a run that has logged nothing yet.
        found: how far they were; empty for a run that begins. None where a checkpoint of an older version
            does not say how far its log was, which is left as it is then.
        step: of the checkpoint; 0 for a run that begins.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Rewind) and found is not None:
            callback.cuts = [logger.rewind(found, step) for logger in run_loggers(trainer)]
        if isinstance(callback, Curves):
            callback.resumed = found or {}


def keep_log(trainer: Trainer, found: Positions | None) -> None:
    """Leave the logs as they are, and have the next checkpoint say how far they were at an earlier one.

    Args:
        trainer: of a run that trains no further.
        found: how far they were then.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Curves):
            callback.positions = found
