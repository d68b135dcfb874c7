"""The log of a run for TensorBoard: event files, which a resumed run cuts to their size at the checkpoint."""

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
    """Lightning's TensorBoard logger, with errors of writing as `Unwritable`, which names the file.

    A thread writes the events; its error is raised at the next event. The arguments are Lightning's.
    """

    label = "tensorboard"

    @property
    def experiment(self) -> Any:
        """The writer of summaries, created when it is first used, on the first process."""
        fresh = self._experiment is None
        threading.excepthook = Quiet(threading.excepthook)
        with explain_write(Path(self.log_dir)):
            writer = super().experiment
        if fresh and self._experiment is not None:  # the other processes have a writer that does nothing
            writer.file_writer.event_writer = Named(writer.file_writer.event_writer, Path(self.log_dir))
        return writer

    def log_metrics(self, *what: Any, **more: Any) -> None:
        """Log scalars. Lightning reports any error as a value that is no number; the cause is raised here."""
        try:
            super().log_metrics(*what, **more)
        except ValueError as error:
            if isinstance(error.__cause__, Unwritable):
                raise error.__cause__ from None
            raise

    def log_hyperparams(self, *what: Any, **more: Any) -> None:
        """Log hyperparameters by Lightning's method, which creates a writer of its own."""
        with explain_write(Path(self.log_dir)):
            super().log_hyperparams(*what, **more)

    def save(self) -> None:
        """Write the hyperparameters to their file."""
        with explain_write(Path(self.log_dir)):
            hparams = Path(self.log_dir) / self.NAME_HPARAMS_FILE
            if not hparams.is_file():  # a pipe or a dangling link, into which Lightning would write
                hparams.unlink(missing_ok=True)
            super().save()

    def finalize(self, status: str) -> None:
        """Close the file. Where a run has failed, an error of writing is ignored in favour of its own."""
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
        """The size of each event file in bytes, after a flush to disk."""
        self.experiment.flush()
        files = own_files(Path(self.log_dir))
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        return {path.name: path.stat().st_size for path in files}

    def rewind(self, positions: Positions, step: int) -> Callable[[], None]:
        """Prepare to cut the present event files to the sizes in a checkpoint.

        Raises:
            UserError: the directory is a link that leads out of its parent.
        """
        directory = Path(self.log_dir)
        check_inside(directory.parent, [directory.name])
        return partial(cut_back, own_files(directory), positions, step)

    def place(self) -> str | None:
        """The directory of event files; None where there are none."""
        return self.log_dir if own_files(Path(self.log_dir)) else None

    def begin_row(self, row: Row) -> None:
        """Write the hyperparameters to an event file of their own."""
        write_row(Path(self.log_dir), row)

    def end_row(self, failed: bool) -> None:
        """Write the status of the run to an event file of its own."""
        end_row(Path(self.log_dir), failed)


class Named:
    """A writer of events whose errors of writing name the folder.

    Args:
        writer: TensorBoard's.
        path: of its folder.
    """

    def __init__(self, writer: Any, path: Path) -> None:
        self._writer, self._path = writer, path

    def __getattr__(self, name: str) -> Any:
        """Any other attribute is that of the writer."""
        return getattr(self._writer, name)

    def add_event(self, event: Any) -> None:
        """Add an event."""
        with explain_write(self._path):
            self._writer.add_event(event)

    def flush(self) -> None:
        """Wait until all events are written to the file."""
        with explain_write(self._path):
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with explain_write(self._path):
            self._writer.close()


class Quiet:
    """A `threading.excepthook` that ignores TensorBoard's threads, whose errors are raised at the next event.

    Args:
        hook: for all other threads.
    """

    def __init__(self, hook: Any) -> None:
        self.hook = hook.hook if isinstance(hook, Quiet) else hook

    def __call__(self, args: Any) -> None:
        """Report an exception that ended a thread."""
        if not type(args.thread).__module__.startswith("tensorboard"):
            self.hook(args)


def own_files(directory: Path) -> list[Path]:
    """The event files in a directory, without links, pipes and devices of such names."""
    return sorted(path for path in directory.glob(EVENTS) if stat.S_ISREG(path.lstat().st_mode))


def cut_back(files: Collection[Path], sizes: Positions, step: int) -> None:
    """Remove the events after a checkpoint, so that nothing is logged twice.

    Args:
        files: event files, none of which is open.
        sizes: in bytes at the checkpoint; files that it does not list are removed. Where it lists none of the
            files, only those are removed whose first step is that of the checkpoint or later.
        step: of the checkpoint; 0 for a new run.

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
