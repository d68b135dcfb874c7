"""Where a run draws."""

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger


def boards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The TensorBoard loggers of a run."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
