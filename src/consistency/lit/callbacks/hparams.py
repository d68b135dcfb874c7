"""The hyperparameters of a run in its logs, from the first step on."""

from contextlib import suppress

from lightning import Callback, LightningModule, Trainer

from consistency.files.atomic import Unwritable
from consistency.lit.loggers.base import Row, RunLogger, writing


class HParams(Callback):
    """Logs the hyperparameters when training starts, and the status `failed` of a run that fails.

    Args:
        row: key of the config -> value.
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
        """Write the status, unless the run was stopped by a signal. A rollback writes the row anew.

        A command that was refused before training changes nothing.
        """
        if self.written and isinstance(exception, Exception):
            with suppress(Unwritable):  # `exception` is the error to report
                end_rows(trainer, failed=True)


def end_rows(trainer: Trainer, failed: bool) -> None:
    """Write the status of a run that has ended.

    Args:
        trainer: of the run.
        failed: whether the run has failed.
    """
    for logger in writing(trainer):
        logger.end_row(failed)
