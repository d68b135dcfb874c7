"""Where a run draws, and how far its curves were at a checkpoint."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

EVENTS = "events.out.tfevents.*"
LOG = "log"  # of a checkpoint: sizes of the event files


def boards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The TensorBoard loggers of a run."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def sizes(board: TensorBoardLogger) -> dict[str, int]:
    """Bytes of each event file, once all that was logged is on disk."""
    board.experiment.flush()
    files = sorted(Path(board.log_dir).glob(EVENTS))
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return {path.name: path.stat().st_size for path in files}


def cut_back(board: TensorBoardLogger, sizes: Mapping[str, int]) -> None:
    """Remove what was logged after a checkpoint, so that nothing is logged twice.

    Args:
        board: of a run that has logged nothing yet.
        sizes: at the checkpoint; files that came later go.
    """
    for path in sorted(Path(board.log_dir).glob(EVENTS)):
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            os.truncate(path, sizes[path.name])


def rewind(trainer: Trainer, checkpoint: Mapping[str, Any] | None) -> None:
    """Cut the log back to a checkpoint, or to nothing; an older checkpoint does not say how far it was."""
    kept = {} if checkpoint is None else checkpoint.get(LOG)
    if kept is not None and trainer.is_global_zero:
        for board in boards(trainer):
            cut_back(board, kept)
