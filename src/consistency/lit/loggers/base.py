"""The interface of loggers: Lightning's, with pictures, texts, and continuation at a checkpoint."""

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

LOG = "log"  # key of a checkpoint: the length of each log

Positions = Mapping[str, int]  # name of a file or a logger -> its length at a checkpoint (bytes or a step)
Row = Mapping[str, str | float | bool]  # hyperparameters by key of the config
T = TypeVar("T")


class RunLogger(Logger):
    """A logger of curves, pictures and texts that can continue at a checkpoint.

    Only the first process calls its methods. Subclasses combine it with a logger of Lightning.
    """

    label = ""  # name of the logger in result.json and in messages

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
        """The length of the log, for a checkpoint of this step; all that was logged is flushed first."""

    @abstractmethod
    def rewind(self, positions: Positions, step: int) -> Callable[[], None]:
        """Prepare to continue at a checkpoint, before anything is logged.

        Args:
            positions: in the checkpoint. Where they lack this logger, it was not in use then, and its log is
                of earlier steps.
            step: of the checkpoint; 0 for a new run, which drops the former log.

        Returns:
            A function that removes the steps after the checkpoint, called when all checks have passed.
        """

    @abstractmethod
    def place(self) -> str | None:
        """The path or address of the log, for the user; None as long as nothing is logged."""

    def begin_row(self, row: Row) -> None:
        """Log the hyperparameters of a run, whenever it starts or resumes."""
        self.log_hyperparams(dict(row))

    def end_row(self, failed: bool) -> None:
        """Close the log of a run that has ended.

        Args:
            failed: whether the run has failed.
        """


def run_loggers(trainer: Trainer) -> list[RunLogger]:
    """The loggers of a run that implement `RunLogger`."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def writing(trainer: Trainer) -> list[RunLogger]:
    """The same on the first process, which alone writes; none on the others."""
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
        image = drawn if isinstance(drawn, Image.Image) else render(drawn)
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
    """The lengths of all logs of a run."""
    return {
        name: position
        for logger in writing(trainer)
        for name, position in logger.positions(trainer.global_step).items()
    }


def places(trainer: Trainer) -> dict[str, str]:
    """Paths and addresses of the logs of a run, by logger; without those that have written nothing."""
    found = {logger.label: logger.place() for logger in writing(trainer)}
    others = [logger for logger in trainer.loggers if not isinstance(logger, RunLogger)]
    found |= {type(logger).__name__: logger.log_dir for logger in others}
    return {name: place for name, place in found.items() if place}


def render(figure: "Figure") -> Image.Image:
    """A figure as an RGB image; no display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")


def logger_library(name: str, installation: str = "pip install 'consistency[loggers]'") -> Any:
    """Import the library that a logger needs.

    Args:
        name: of the library and of the logger.
        installation: command that installs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"logger={name} needs {name}: {installation}") from error


def every(trainer: Trainer) -> int:
    """Steps between two scalars in the log."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]
