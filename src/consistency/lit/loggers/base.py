"""What the callbacks of a run need of a logger beyond Lightning's interface."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from lightning import Trainer
from lightning.pytorch.loggers import Logger
from PIL import Image

from consistency.errors import UserError
from consistency.markup import fenced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = "log"  # of a checkpoint: how far each log was

Positions = Mapping[str, int]  # a file or a logger by name -> how far it was at a checkpoint
Row = Mapping[str, str | float | bool]  # hyperparameters
T = TypeVar("T")


class RunLogger(Logger):
    """A logger that takes pictures and texts, goes on where a checkpoint was, and knows where it writes.

    Only the first process calls its methods. Subclasses combine it with a logger of Lightning.
    """

    label = ""  # names the logger in result.json and in messages

    @abstractmethod
    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Log an RGB or grey image.

        Args:
            name: such as `samples/1step`.
            image: of any size.
            step: of the optimiser.
        """

    @abstractmethod
    def text(self, name: str, text: str, step: int) -> None:
        """Log a text in Markdown; arguments as those of `picture`."""

    @abstractmethod
    def positions(self, step: int) -> Positions:
        """How far the log is, for a checkpoint of this step; all that was logged is on disk then."""

    @abstractmethod
    def rewind(self, positions: Positions, step: int) -> Callable[[], None]:
        """Prepare to go on from a checkpoint, before anything is logged.

        Args:
            positions: in the checkpoint. It may list none of this logger, whose log is from before the
                checkpoint then.
            step: of the checkpoint; 0 for a run that begins, whose former log is given up.

        Returns:
            What removes the steps after the checkpoint, called once nothing can be refused any more.
        """

    @abstractmethod
    def place(self) -> str | None:
        """Where the log is, for a person: a path or an address; None as long as nothing is there."""

    def begin_row(self, row: Row) -> None:
        """Log the hyperparameters of a run, at its beginning and whenever it goes on."""
        self.log_hyperparams(dict(row))

    def end_row(self, failed: bool) -> None:
        """Close the log of a run that has ended.

        Args:
            failed: whether it led nowhere.
        """


def run_loggers(trainer: Trainer) -> list[RunLogger]:
    """The loggers of a run that are more than Lightning's interface."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def writing(trainer: Trainer) -> list[RunLogger]:
    """Those of this process: none on any but the first, which alone writes."""
    return run_loggers(trainer) if trainer.is_global_zero else []


def log(trainer: Trainer, values: Mapping[str, float], step: int) -> None:
    """Log scalars to all loggers of a run.

    Args:
        trainer: of the run.
        values: by name.
        step: of the optimiser.
    """
    for logger in trainer.loggers if values else ():
        logger.log_metrics(dict(values), step=step)


def log_picture(trainer: Trainer, name: str, draw: Callable[[], "Image.Image | Figure"]) -> None:
    """Log an image or a figure at the present step.

    Args:
        trainer: of the run.
        name: such as `samples/1step`.
        draw: makes it; called once, and only where a logger takes pictures.
    """
    loggers = writing(trainer)
    if loggers:
        drawn = draw()
        image = drawn if isinstance(drawn, Image.Image) else rendered(drawn)
        for logger in loggers:
            logger.picture(name, image, trainer.global_step)


def log_text(trainer: Trainer, name: str, text: str) -> None:
    """Log a text in Markdown at the present step."""
    for logger in writing(trainer):
        logger.text(name, text, trainer.global_step)


def log_code(trainer: Trainer, name: str, text: str, language: str) -> None:
    """Log a text as a block of code at the present step."""
    log_text(trainer, name, fenced(text, language))


def positions(trainer: Trainer) -> dict[str, int]:
    """How far all logs of a run are."""
    return {
        name: position
        for logger in writing(trainer)
        for name, position in logger.positions(trainer.global_step).items()
    }


def places(trainer: Trainer) -> dict[str, str]:
    """Where a run has been logged, by logger; those that have written nothing are left out."""
    found = {logger.label: logger.place() for logger in writing(trainer)}
    others = [logger for logger in trainer.loggers if not isinstance(logger, RunLogger)]
    found |= {type(logger).__name__: logger.log_dir for logger in others}
    return {name: place for name, place in found.items() if place}


def rendered(figure: "Figure") -> Image.Image:
    """A figure as an RGB image, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")


def logger_library(name: str, how: str = "pip install 'consistency[loggers]'") -> Any:
    """The module of a library that a logger needs.

    Args:
        name: of the library and of the logger.
        how: it is installed.

    Raises:
        UserError: it is not there.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"logger={name} needs {name}: {how}") from error


def every(trainer: Trainer) -> int:
    """Steps between two scalars in the log."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]
