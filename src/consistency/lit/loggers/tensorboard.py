"""The log of a run for TensorBoard: event files, which are cut back to the size they had at a checkpoint."""

import os
import stat
import threading
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from consistency.files.atomic import Unwritable, explain_write
from consistency.files.owned import check_inside, reopened
from consistency.lit.loggers.base import Positions, Row, RunLogger
from consistency.lit.loggers.events import begun_at
from consistency.lit.loggers.rows import end_row, write_row

EVENTS = "events.out.tfevents.*"


class Board(RunLogger, TensorBoardLogger):
    """TensorBoard's logger, which names its file when that cannot be written.

    Its events are written by a thread, whose error comes back with the next event. Arguments are those of
    Lightning's.
    """

    label = "tensorboard"

    @property
    def experiment(self) -> Any:
        """The writer of summaries; made when it is first asked for, on the first process."""
        fresh = self._experiment is None
        threading.excepthook = Quiet(threading.excepthook)
        with explain_write(Path(self.log_dir)):
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
        with explain_write(Path(self.log_dir)):
            super().log_hyperparams(*what, **more)

    def save(self) -> None:
        """As Lightning's."""
        with explain_write(Path(self.log_dir)):
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

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Add an image."""
        from torchvision.transforms.functional import pil_to_tensor

        self.experiment.add_image(name, pil_to_tensor(image), step)

    def text(self, name: str, text: str, step: int) -> None:
        """Add a text."""
        self.experiment.add_text(name, text, step)

    def positions(self, step: int) -> Positions:
        """Bytes of each event file, once all that was logged is on disk."""
        self.experiment.flush()
        files = own_files(Path(self.log_dir))
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        return {path.name: path.stat().st_size for path in files}

    def rewind(self, positions: Positions, step: int) -> Callable[[], None]:
        """Remember the event files there are, to cut them back to the sizes in a checkpoint.

        Raises:
            UserError: the directory is a link that leads out of the directory it stands in.
        """
        directory = Path(self.log_dir)
        check_inside(directory.parent, [directory.name])
        return partial(cut_back, own_files(directory), positions, step)

    def place(self) -> str | None:
        """The directory of event files."""
        return self.log_dir if own_files(Path(self.log_dir)) else None

    def begin_row(self, row: Row) -> None:
        """Write the hyperparameters to an event file of their own."""
        write_row(Path(self.log_dir), row)

    def end_row(self, failed: bool) -> None:
        """Write the status of the run to an event file of its own."""
        end_row(Path(self.log_dir), failed)


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
        with explain_write(self._path):
            self._writer.add_event(event)

    def flush(self) -> None:
        """Wait until all events are in the file."""
        with explain_write(self._path):
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with explain_write(self._path):
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


def own_files(directory: Path) -> list[Path]:
    """The event files in a directory. Links, pipes and devices of such names are none."""
    return sorted(path for path in directory.glob(EVENTS) if stat.S_ISREG(path.lstat().st_mode))


def cut_back(files: Collection[Path], sizes: Positions, step: int) -> None:
    """Remove what was logged after a checkpoint, so that nothing is logged twice.

    Args:
        files: of events, none of which is being written.
        sizes: at the checkpoint; files that came later go. Where it lists none of the files, those that
            begin before its step stay as they are.
        step: of the checkpoint; 0 for a run that begins.

    Raises:
        UserError: a file to be cut has a second name, under which it would be cut as well.
    """
    unlisted = step > 0 and not any(path.name in sizes for path in files)
    for path in files:
        if unlisted:
            if (begun_at(path) or 0) >= step:
                path.unlink(missing_ok=True)
        elif path.name not in sizes:
            path.unlink(missing_ok=True)
        elif path.lstat().st_size > sizes[path.name]:
            with reopened(path) as file:
                file.truncate(sizes[path.name])
