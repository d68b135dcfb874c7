"""The row of a run in the HParams tab of TensorBoard: there from the first step on."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from consistency.files.atomic import Unwritable, replacing
from consistency.lit.boards import boards
from consistency.lit.module import Module

NAME = "events.out.tfevents.0.hparams"  # read before the events of training, whose names hold the time


class HParams(Callback):
    """Writes the hyperparameters when training starts, and the status of a run that fails.

    TensorBoard keeps the first hyperparameters that it finds of a run: they have an event file of their own,
    which a run that goes on replaces. It takes the first list of columns for that of all runs, which may have
    others: none is written, and the columns are those of all runs, with all their curves.

    Args:
        row: key -> value.
    """

    def __init__(self, row: Mapping[str, str | float | bool]) -> None:
        self.row = row

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Write the row."""
        if trainer.is_global_zero:
            for board in boards(trainer):
                write_row(Path(board.log_dir), self.row)

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """Write the status, unless the run was only stopped. A run that goes back cuts it off again."""
        if isinstance(exception, Exception):
            with suppress(Unwritable):  # the exception is the one to tell
                end_row(trainer, failed=True)


def write_row(directory: Path, row: Mapping[str, str | float | bool]) -> None:
    """Replace the hyperparameters of a log.

    Args:
        directory: of the log.
        row: key -> value.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import hparams

    _, start, _ = hparams(dict(row), {})
    events = [Event(file_version="brain.Event:2"), Event(summary=start)]
    with replacing(directory / NAME) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())


def end_row(trainer: Trainer, failed: bool) -> None:
    """Write what has become of a run, behind its curves.

    Args:
        trainer: of the run.
        failed: whether it led nowhere.
    """
    if trainer.is_global_zero:
        for board in boards(trainer):
            board.experiment._get_file_writer().add_summary(ended(failed))
            board.experiment.flush()


def ended(failed: bool) -> Any:
    """The summary that says it."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import Status  # type: ignore[attr-defined]
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[attr-defined]

    status = Status.Value("STATUS_FAILURE" if failed else "STATUS_SUCCESS")
    about = HParamsPluginData()
    about.session_end_info.status = status
    about.session_end_info.end_time_secs = time.time()
    described = metadata.create_summary_metadata(about)
    return Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described)])
