"""Where a run draws, and how far its curves were at a checkpoint."""

import os
import stat
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from consistency.files.atomic import Unwritable, explained
from consistency.files.owned import check_inside, reopened

EVENTS = "events.out.tfevents.*"
LOG = "log"  # of a checkpoint: sizes of the event files


class Board(TensorBoardLogger):
    """TensorBoard's logger, which names its file when that cannot be written.

    Its events are written by a thread, whose error comes back with the next event. Arguments are those of
    Lightning's.
    """

    @property
    def experiment(self) -> Any:
        """The writer of summaries; made when it is first asked for, on the first process."""
        fresh = self._experiment is None
        threading.excepthook = Quiet(threading.excepthook)
        with explained(Path(self.log_dir)):
            writer = super().experiment
        if fresh and self._experiment is not None:  # the other processes have a writer that does nothing
            writer.file_writer.event_writer = Named(writer.file_writer.event_writer, Path(self.log_dir))
        return writer

    def log_metrics(self, *what: Any, **more: Any) -> None:
        """As Lightning's, which takes any failure for a value that is no number."""
        try:
            super().log_metrics(*what, **more)
        except ValueError as error:
            if isinstance(error.__cause__, Unwritable):
                raise error.__cause__ from None
            raise

    def log_hyperparams(self, *what: Any, **more: Any) -> None:
        """As Lightning's, which makes a writer of its own."""
        with explained(Path(self.log_dir)):
            super().log_hyperparams(*what, **more)

    def save(self) -> None:
        """As Lightning's."""
        with explained(Path(self.log_dir)):
            hparams = Path(self.log_dir) / self.NAME_HPARAMS_FILE
            if not hparams.is_file():  # a pipe or a dangling link, into which Lightning would write
                hparams.unlink(missing_ok=True)
            super().save()

    def finalize(self, status: str) -> None:
        """Close the file; where a run has failed, whatever the reason, that reason is the one to tell."""
        try:
            super().finalize(status)
        except Unwritable:
            if status != "failed":
                raise


class Named:
    """A writer of events whose refusals name the file.

    Args:
        writer: of TensorBoard.
        path: of its folder.
    """

    def __init__(self, writer: Any, path: Path) -> None:
        self._writer, self._path = writer, path

    def __getattr__(self, name: str) -> Any:
        """Anything else is the writer's."""
        return getattr(self._writer, name)

    def add_event(self, event: Any) -> None:
        """Add an event."""
        with explained(self._path):
            self._writer.add_event(event)

    def flush(self) -> None:
        """Wait until all events are in the file."""
        with explained(self._path):
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with explained(self._path):
            self._writer.close()


class Quiet:
    """A hook of threads that leaves out those of TensorBoard, whose errors the run hears of by itself.

    Args:
        hook: for all others.
    """

    def __init__(self, hook: Any) -> None:
        self.hook = hook.hook if isinstance(hook, Quiet) else hook

    def __call__(self, args: Any) -> None:
        """Tell of an exception that ended a thread."""
        if not type(args.thread).__module__.startswith("tensorboard"):
            self.hook(args)


def boards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The TensorBoard loggers of a run."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def sizes(board: TensorBoardLogger) -> dict[str, int]:
    """Bytes of each event file, once all that was logged is on disk."""
    board.experiment.flush()
    files = own_files(board)
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return {path.name: path.stat().st_size for path in files}


def event_files(trainer: Trainer) -> list[Path]:
    """The event files of a run so far.

    Raises:
        UserError: a log directory is a link that leads out of the directory it stands in.
    """
    for board in boards(trainer):
        log = Path(board.log_dir)
        check_inside(log.parent, [log.name])
    return sorted(path for board in boards(trainer) for path in own_files(board))


def own_files(board: TensorBoardLogger) -> list[Path]:
    """The event files in the directory of a logger. Links, pipes and devices of such names are none."""
    return sorted(path for path in Path(board.log_dir).glob(EVENTS) if stat.S_ISREG(path.lstat().st_mode))


def cut_back(files: Iterable[Path], sizes: Mapping[str, int]) -> None:
    """Remove what was logged after a checkpoint, so that nothing is logged twice.

    Args:
        files: of events, none of which is being written.
        sizes: at the checkpoint; files that came later go.

    Raises:
        UserError: a file to be cut has a second name, under which it would be cut as well.
    """
    for path in files:
        if path.name not in sizes:
            path.unlink(missing_ok=True)
        elif path.lstat().st_size > sizes[path.name]:
            with reopened(path) as file:
                file.truncate(sizes[path.name])
