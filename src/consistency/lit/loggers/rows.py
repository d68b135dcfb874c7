"""The row of a run in the HParams tab of TensorBoard.

TensorBoard keeps the first hyperparameters and the first status that it finds of a run: they have event files
of their own, which a run that goes on removes. It takes the first list of columns for that of all runs, which
may have others: none is written, and the columns are those of all runs.
"""

import time
from pathlib import Path
from typing import Any

from consistency.files.atomic import replacing
from consistency.lit.loggers.base import Row

FIRST = "events.out.tfevents.0.hparams"  # read before the events of training, whose names hold the time
ALL = "events.out.tfevents.*.hparams"


def write_row(directory: Path, row: Row) -> None:
    """Replace the hyperparameters of a log; a status is removed.

    Args:
        directory: of the log.
        row: key -> value.
    """
    from torch.utils.tensorboard.summary import hparams

    for path in directory.glob(ALL):
        path.unlink(missing_ok=True)
    write_summary(directory / FIRST, hparams(dict(row), {})[1])


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
    write_summary(directory / f"events.out.tfevents.{now:.0f}.hparams", summary)


def write_summary(path: Path, summary: Any) -> None:
    """An event file with one summary."""
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = [Event(file_version="brain.Event:2"), Event(summary=summary)]
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
