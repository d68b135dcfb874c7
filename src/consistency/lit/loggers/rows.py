"""The row of a run in the HParams tab of TensorBoard.

TensorBoard uses the first hyperparameters and the first status that it reads of a run. Both are written to
event files of their own, which a resumed run replaces. It uses the first list of columns for all runs, which
may have others; none is written, so that the tab has the columns of all runs.
"""

import time
from pathlib import Path
from typing import Any

from consistency.files.atomic import replacing
from consistency.lit.loggers.base import Row

FIRST = "events.out.tfevents.0.hparams"  # read before the events of training, whose names contain the time
ALL = "events.out.tfevents.*.hparams"


def write_row(directory: Path, row: Row) -> None:
    """Replace the hyperparameters of a log, and remove its status.

    Args:
        directory: of the log.
        row: key of the config -> value.
    """
    from torch.utils.tensorboard.summary import hparams

    for path in directory.glob(ALL):
        path.unlink(missing_ok=True)
    write_summary(directory / FIRST, hparams(dict(row), {})[1])


def end_row(directory: Path, failed: bool) -> None:
    """Replace the status of a log.

    Args:
        directory: of the log.
        failed: whether the run has failed.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import Status  # type: ignore[attr-defined]
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[attr-defined]

    content, now = HParamsPluginData(), time.time()
    content.session_end_info.status = Status.Value("STATUS_FAILURE" if failed else "STATUS_SUCCESS")
    content.session_end_info.end_time_secs = now
    status = metadata.create_summary_metadata(content)
    for path in directory.glob(ALL):
        if path.name != FIRST:
            path.unlink(missing_ok=True)
    summary = Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=status)])
    write_summary(directory / f"events.out.tfevents.{now:.0f}.hparams", summary)


def write_summary(path: Path, summary: Any) -> None:
    """Write an event file with one summary."""
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = [Event(file_version="brain.Event:2"), Event(summary=summary)]
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
