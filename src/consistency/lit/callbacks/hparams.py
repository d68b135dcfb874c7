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

FIRST = "events.out.tfevents.0.hparams"  # read before the events of training, whose names hold the time
ALL = "events.out.tfevents.*.hparams"

Row = Mapping[str, str | float | bool]  # key -> value


class HParams(Callback):
    """Writes the hyperparameters when training starts, and the status of a run that fails.

    TensorBoard keeps the first hyperparameters and the first status that it finds of a run: they have event
    files of their own, which a run that goes on removes. It takes the first list of columns for that of all
    runs, which may have others: none is written, and the columns are those of all runs.

    Args:
        row: key -> value.
    """

    def __init__(self, row: Row) -> None:
        self.row, self.written = row, False

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Write the row."""
        self.written = True
        if trainer.is_global_zero:
            for board in boards(trainer):
                write_row(Path(board.log_dir), self.row)

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
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
    if trainer.is_global_zero:
        for board in boards(trainer):
            end_row(Path(board.log_dir), failed)


def write_row(directory: Path, row: Row) -> None:
    """Replace the hyperparameters of a log; a status is removed.

    Args:
        directory: of the log.
        row: key -> value.
    """
    from torch.utils.tensorboard.summary import hparams

    for path in directory.glob(ALL):
        path.unlink(missing_ok=True)
    write(directory / FIRST, hparams(dict(row), {})[1])


def end_row(directory: Path, failed: bool) -> None:
    """Replace the status of a log.

    Args:
        directory: of the log.
        failed: whether the run led nowhere.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import Status  # type: ignore[attr-defined]
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[attr-defined]

    about, now = HParamsPluginData(), time.time()
    about.session_end_info.status = Status.Value("STATUS_FAILURE" if failed else "STATUS_SUCCESS")
    about.session_end_info.end_time_secs = now
    described = metadata.create_summary_metadata(about)
    for path in directory.glob(ALL):
        if path.name != FIRST:
            path.unlink(missing_ok=True)
    summary = Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described)])
    write(directory / f"events.out.tfevents.{now:.0f}.hparams", summary)


def write(path: Path, summary: Any) -> None:
    """An event file with one summary."""
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = [Event(file_version="brain.Event:2"), Event(summary=summary)]
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
