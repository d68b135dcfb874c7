"""Prints the table of Lightning's profiler."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from consistency.errors import at_least
from consistency.process.rank import is_first


class ProfileTable(Callback):
    """Prints the first lines of the profiler's table when training has ended; the whole table is in a file.

    Args:
        lines: largest number of lines, 1 or greater.
    """

    def __init__(self, lines: int = 40) -> None:
        at_least("callbacks.profile", lines=lines)
        self.lines = lines

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table."""
        if is_first():
            profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
            print(first_lines(profiler.summary(), self.lines), flush=True)


def first_lines(text: str, lines: int) -> str:
    """The first lines of a text that are not empty, and a line with the number of those left out."""
    every = [line.rstrip() for line in text.splitlines() if line.strip("- ")]
    more = [f"{len(every) - lines} more lines are in fit-profile.txt"] if len(every) > lines else []
    return "\n".join([*every[:lines], *more])
