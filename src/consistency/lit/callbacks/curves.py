"""The curves of training: what is logged at a step, and how far the log was when a checkpoint was written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from consistency.lit.boards import LOG, boards, cut_back, event_files, sizes
from consistency.lit.callbacks.progress import every
from consistency.lit.module import Module


class Curves(Callback):
    """Logs `train/...` before a checkpoint of the same step is written: after a kill no point is missing.

    Lightning would log it later. Each checkpoint holds the sizes of the event files, to which a run that goes
    on from it cuts them back (`Rewind`).
    """

    def __init__(self) -> None:
        self.step = 0  # of the last batch
        self.sizes: Mapping[str, int] | None = None  # in place of those that the files have

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
            now = {name: size for board in boards(trainer) for name, size in sizes(board).items()}
            checkpoint[LOG] = now if self.sizes is None else dict(self.sizes)


class Rewind(Callback):
    """Cuts the log back to the checkpoint that a run goes on from, when nothing can be refused any more.

    It comes before all callbacks that log.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.sizes: Mapping[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Cut, once."""
        if trainer.is_global_zero:
            cut_back(self.files, self.sizes)
        self.files = []


def rewind(trainer: Trainer, sizes: Mapping[str, int] | None) -> None:
    """Have the log cut back to what it was at a checkpoint when training starts.

    Args:
        trainer: of a run that has logged nothing yet.
        sizes: of the event files then; empty for a run that begins. None where a checkpoint of an older
            version does not say how far the log was, which is left as it is then.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Rewind) and sizes is not None:
            callback.files, callback.sizes = event_files(trainer), sizes


def keep_log(trainer: Trainer, sizes: Mapping[str, int] | None) -> None:
    """Leave the log as it is, and have the next checkpoint say how far it was at an earlier one.

    Args:
        trainer: of a run that trains no further.
        sizes: of the event files then.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Curves):
            callback.sizes = sizes
