"""Faults of training that come back in another process, as long as a run has not gone back often enough."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import Callback

from consistency.lit.divergence import guard_of
from tests.conftest import SMALL

TINY = [*SMALL, "threads=1", "net.width=16", "data.batch_size=16", "trainer.log_every_n_steps=5"]
TINY += ["trainer.max_steps=60", "trainer.val_check_interval=20", "callbacks.checkpoints.every=15"]
TINY += ["callbacks.signals=null", "rate.warmup=10"]


class Faults(Callback):
    """Spoils a step or the samples of a validation.

    Args:
        poison: steps in whose batch a sample is NaN; the i-th until the run has gone back i+1 times, in all.
        collapse: steps at whose validation all samples are alike; they follow those of `poison` in the count.
        kill: moments at which the process kills itself, once each: 2i before rollback i is written down,
            2i+1 after that and before the first step.
        marks: a folder where kills are collect_signals.
    """

    def __init__(
        self,
        poison: Sequence[int] = (),
        collapse: Sequence[int] = (),
        kill: Sequence[int] = (),
        marks: str = ".",
    ) -> None:
        self.poison, self.collapse, self.kill = list(poison), list(collapse), list(kill)
        self.marks, self.first = Path(marks), -1

    def on_train_start(self, trainer, *_):
        record = guard_of(trainer).record
        self.first = trainer.global_step
        if record.count > record.written:
            self._strike(2 * record.count - 2)

    def on_train_batch_start(self, trainer, pl_module, batch, index):
        count = guard_of(trainer).record.count
        if trainer.global_step == self.first and count:
            self._strike(2 * count - 1)
        if trainer.global_step in self.poison[count:]:
            batch.x[0] = torch.nan

    def on_validation_batch_end(self, trainer, pl_module, outputs, *_):
        guard = guard_of(trainer)
        left = self.collapse[max(guard.record.count - len(self.poison), 0) :]
        if trainer.state.fn == "fit" and trainer.global_step in left:
            guard.varied = [*outputs]
            for moments in guard.moments.values():
                moments[:-1] = 0

    def _strike(self, moment):
        mark = self.marks / f"kill-{moment}"
        if moment in self.kill and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def faults(**how):
    """The override that brings them."""
    words = ", ".join(f"{key}: {value}" for key, value in how.items())
    return f"+callbacks.faults={{_target_: tests.faults.Faults, {words}}}"
