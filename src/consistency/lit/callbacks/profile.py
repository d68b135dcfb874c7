"""What Lightning's profiler has measured, on the terminal."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from consistency.errors import at_least
from consistency.process.rank import is_first


class ProfileTable(Callback):
    """Prints the top of the profiler's table once training has ended; all of it is in a file.

    Args:
        lines: of the table, at most; 1 or greater.
    """

    def __init__(self, lines: int = 40) -> None:
        at_least("callbacks.profile", lines=lines)
        self.lines = lines

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it."""
        if is_first():
            profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
            print(top(profiler.summary(), self.lines), flush=True)


def top(text: str, lines: int) -> str:
    """The first lines of a text that are not empty, and how many follow."""
    every = [line.rstrip() for line in text.splitlines() if line.strip("- ")]
    more = [f"{len(every) - lines} more lines are in fit-profile.txt"] if len(every) > lines else []
    return "\n".join([*every[:lines], *more])
