"""How far, how fast, and how long still."""

import sys
import time
from contextlib import ExitStack
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import Progress

from consistency import watch
from consistency.errors import at_least
from consistency.lit.callbacks.validation import pace_plan, validation_of
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
        """Log and start again."""
        steps = trainer.global_step - self.step
        if steps and trainer.global_step % every(trainer) == 0:
            now = time.monotonic()
            rate = steps * self.batch_size / (now - self.since)
            pl_module.log("train/images_per_second", rate, logger=False)
            self.since, self.step = now, trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out."""
        self.since, self.step = time.monotonic(), trainer.global_step


class RunProgress(ProgressBar):
    """One bar from the first step to the last, with the time left; in a log file, a line now and then.

    The time left is that of the steps and, once one has been measured, of the validations to come.

    Args:
        seconds: time between two lines where there is no terminal.
    """

    def __init__(self, seconds: float = watch.SECONDS) -> None:
        super().__init__()
        at_least("callbacks.progress", 0, seconds=seconds)
        self.seconds, self.shown = seconds, 0.0
        self.bar: Progress | None = None
        self.open = ExitStack()

    def disable(self) -> None:
        """Called by Lightning on every process but the first."""
        self.seconds = float("inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where the run stands."""
        if not sys.stderr.isatty() or self.seconds == float("inf"):
            return
        self.bar = self.open.enter_context(watch.terminal())
        total = trainer.max_steps if trainer.max_steps > 0 else None
        now = {"completed": trainer.global_step, "left": "unknown time", "news": ""}
        self.task = self.bar.add_task("training", total=total, **now)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move the bar, or write a line: not at every step, for reading the loss waits for the device."""
        if self.bar is not None and time.monotonic() - self.shown >= 0.2:
            self.shown, left = time.monotonic(), self._left(trainer)
            now = {"completed": trainer.global_step, "left": left, "news": self._news(trainer)}
            self.bar.update(self.task, **now)
        elif self.bar is None and watch.due(self.seconds):
            done = f"step {trainer.global_step}/{trainer.max_steps}"
            watch.write_line(f"{done}, {self._left(trainer)} left, {self._news(trainer)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, left="0:00:00")
        self.bar = None
        self.open.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message stands alone."""
        self.on_train_end(trainer, pl_module)

    def _left(self, trainer: Trainer) -> str:
        validation = validation_of(trainer)
        if validation is None or validation.pace.step is None:
            return "unknown time"
        seconds, known = validation.pace.left(pace_plan(trainer))
        return watch.clock(seconds) + ("" if known else " and validations")

    def _news(self, trainer: Trainer) -> str:
        shown = {k.removeprefix("train/"): float(v) for k, v in trainer.progress_bar_metrics.items()}
        return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
