"""Throughput and progress of training."""

import sys
import time
from contextlib import ExitStack
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import Progress

from consistency import watch
from consistency.errors import at_least
from consistency.lit.callbacks.validation import remaining_steps, validation_of
from consistency.lit.loggers.base import every


class Throughput(Callback):
    """Logs images per second between two logging steps, over all processes; validation is not counted.

    Args:
        batch_size: images per optimiser step.
    """

    def __init__(self, batch_size: int) -> None:
        at_least("callbacks.throughput", batch_size=batch_size)
        self.batch_size, self.since, self.step = batch_size, 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.since, self.step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log the rate, and restart the clock."""
        steps = trainer.global_step - self.step
        if steps and trainer.global_step % every(trainer) == 0:
            now = time.monotonic()
            rate = steps * self.batch_size / (now - self.since)
            pl_module.log("train/images_per_second", rate, logger=False)
            self.since, self.step = now, trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock, so that the validation is not counted."""
        self.since, self.step = time.monotonic(), trainer.global_step


class RunProgress(ProgressBar):
    """A bar from the first step to the last, with the time left; a line every few seconds without a terminal.

    The time left includes the validations to come once one has been measured.

    Args:
        seconds: between two lines where there is no terminal, 0 or greater.
    """

    def __init__(self, seconds: float = watch.SECONDS) -> None:
        super().__init__()
        at_least("callbacks.progress", 0, seconds=seconds)
        self.seconds, self.updated = seconds, 0.0  # time of the last update of the bar
        self.bar: Progress | None = None
        self.open = ExitStack()

    def disable(self) -> None:
        """Called by Lightning on every process but the first."""
        self.seconds = float("inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the present step."""
        if not sys.stderr.isatty() or self.seconds == float("inf"):
            return
        self.bar = self.open.enter_context(watch.terminal())
        total = trainer.max_steps if trainer.max_steps > 0 else None
        now = {"completed": trainer.global_step, "left": "unknown time", "news": ""}
        self.task = self.bar.add_task("training", total=total, **now)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Update the bar or write a line; not at every step, because reading the loss synchronises."""
        if self.bar is not None and time.monotonic() - self.updated >= 0.2:
            self.updated, left = time.monotonic(), self._time_left(trainer)
            now = {"completed": trainer.global_step, "left": left, "news": self._scalars(trainer)}
            self.bar.update(self.task, **now)
        elif self.bar is None and watch.line_due(self.seconds):
            done = f"step {trainer.global_step}/{trainer.max_steps}"
            watch.write_line(f"{done}, {self._time_left(trainer)} left, {self._scalars(trainer)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, left="0:00:00")
        self.bar = None
        self.open.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar before the error is printed."""
        self.on_train_end(trainer, pl_module)

    def _time_left(self, trainer: Trainer) -> str:
        validation = validation_of(trainer)
        if validation is None or validation.times.step is None:
            return "unknown time"
        seconds, known = validation.times.left(remaining_steps(trainer))
        return watch.clock(seconds) + ("" if known else " and validations")

    def _scalars(self, trainer: Trainer) -> str:
        scalars = {k.removeprefix("train/"): float(v) for k, v in trainer.progress_bar_metrics.items()}
        return ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
