"""How far, how fast, and how long still."""

import sys
import time
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from consistency.errors import at_least
from consistency.lit.module import Module
from consistency.watch import clock


class Throughput(Callback):
    """Logs images per second between two logging steps, over all processes; validation is not counted.

    Args:
        batch_size: images per optimiser step.
    """

    def __init__(self, batch_size: int) -> None:
        at_least("callbacks.throughput", batch_size=batch_size)
        self.batch_size, self.since, self.step = batch_size, 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Start the clock."""
        self.since, self.step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Log and start again."""
        steps = trainer.global_step - self.step
        if steps and trainer.global_step % every(trainer) == 0:
            now = time.monotonic()
            rate = steps * self.batch_size / (now - self.since)
            pl_module.log("train/images_per_second", rate, logger=False)
            self.since, self.step = now, trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Leave the validation out."""
        self.since, self.step = time.monotonic(), trainer.global_step


class RunProgress(ProgressBar):
    """One bar from the first step to the last, with the time left; in a log file, a line now and then.

    Args:
        seconds: time between two lines where there is no terminal.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        at_least("callbacks.progress", 0, seconds=seconds)
        self.seconds, self.bar, self.shown, self.begun = seconds, None, 0.0, (0.0, 0)

    def disable(self) -> None:
        """Called by Lightning on every process but the first."""
        self.seconds = float("inf")

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Open the bar where the run stands."""
        self.begun = (time.monotonic(), trainer.global_step)
        self.shown = time.monotonic()
        if not sys.stderr.isatty() or self.seconds == float("inf"):
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        clocks = (TimeElapsedColumn(), TextColumn("left"), TimeLeft(), TextColumn("{task.fields[news]}"))
        self.bar = Progress(*columns, *clocks, console=Console(stderr=True))
        self.bar.start()
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self.task = self.bar.add_task("training", total=total, completed=trainer.global_step, news="")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Move the bar, or write a line: not at every step, for reading the loss waits for the device."""
        if time.monotonic() - self.shown < (0.2 if self.bar else self.seconds):
            return
        self.shown = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, news=self._news(trainer))
        else:
            left = clock(self._left(trainer))
            done = f"step {trainer.global_step}/{trainer.max_steps}, {left} left, {self._news(trainer)}"
            print(done, file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step)
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """Close the bar, so that the message stands alone."""
        self.on_train_end(trainer, pl_module)

    def _left(self, trainer: Trainer) -> float:
        since, step = self.begun
        done = max(trainer.global_step - step, 1)
        return (time.monotonic() - since) / done * (trainer.max_steps - trainer.global_step)

    def _news(self, trainer: Trainer) -> str:
        shown = {k.removeprefix("train/"): float(v) for k, v in trainer.progress_bar_metrics.items()}
        return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


def every(trainer: Trainer) -> int:
    """Steps between two scalars in the log."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]
