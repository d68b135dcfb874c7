"""The hyperparameters of a run in its logs: there from the first step on."""

from contextlib import suppress

from lightning import Callback, LightningModule, Trainer

from consistency.files.atomic import Unwritable
from consistency.lit.loggers.base import Row, RunLogger, writing


class HParams(Callback):
    """Logs the hyperparameters when training starts, and the status of a run that fails.

    Args:
        row: key -> value.
    """

    def __init__(self, row: Row) -> None:
        self.row, self.written = row, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row."""
        self.written = True
        for logger in writing(trainer):
            logger.begin_row(self.row)
        for logger in trainer.loggers:
            if not isinstance(logger, RunLogger):
                logger.log_hyperparams(dict(self.row))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the status, unless the run was only stopped. One that goes back writes its row anew.

        A command that was refused before it has trained changes nothing.
        """
        if self.written and isinstance(exception, Exception):
            with suppress(Unwritable):  # the exception is the one to tell
                end_rows(trainer, failed=True)


def end_rows(trainer: Trainer, failed: bool) -> None:
    """Write what has become of a run.

    Args:
        trainer: of the run.
        failed: whether it led nowhere.
    """
    for logger in writing(trainer):
        logger.end_row(failed)
