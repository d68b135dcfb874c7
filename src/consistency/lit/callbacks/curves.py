"""The curves of training: what is logged at a step, and how far the log was when a checkpoint was written."""

from typing import Any

from lightning import Callback, Trainer

from consistency.lit.boards import LOG, boards, sizes
from consistency.lit.callbacks.progress import every
from consistency.lit.module import Module


class Curves(Callback):
    """Logs `train/...` before a checkpoint of the same step is written: after a kill no point is missing.

    Lightning would log it later. Each checkpoint holds the sizes of the event files, to which a run that goes
    on from it cuts them back (`consistency.lit.boards.rewind`).
    """

    def __init__(self) -> None:
        self.step = 0  # of the last batch

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Count on from the step of the checkpoint."""
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Log once per optimiser step that is due, at the number of the step counted from 0."""
        k = trainer.global_step
        if k == self.step:
            return
        self.step = k
        if k % every(trainer) == 0 and trainer.logger:
            found = trainer.callback_metrics
            values = {name: float(value) for name, value in found.items() if name.startswith("train/")}
            trainer.logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=k - 1)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """Add how far the log is."""
        if trainer.is_global_zero:
            checkpoint[LOG] = {name: size for board in boards(trainer) for name, size in sizes(board).items()}
