"""Ctrl-C and SIGTERM: finish the step, save, and go."""

import signal
from typing import Any

from lightning import Callback, Trainer

from consistency.lit.module import Module

EVERY = 10  # steps between two questions to the other processes


class Interrupted(RuntimeError):  # noqa: N818 - the run did what it was asked to
    """The run was asked to stop, and did so between two steps.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


class Interruption(Callback):
    """Turns a signal into an exception at the end of the step, when weights and counters agree.

    A second signal takes effect at once.
    """

    def __init__(self) -> None:
        self.signum, self.former = 0, {}

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Listen, in place of Lightning."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            self.former[signum] = signal.signal(signum, self._note)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Stop on all processes at the same step; to ask all of them at every step would cost time."""
        if trainer.world_size > 1 and trainer.global_step % EVERY:
            return
        if trainer.strategy.reduce_boolean_decision(bool(self.signum), all=False):
            raise Interrupted(self.signum or signal.SIGTERM)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Stop between batches of samples, where no other process waits."""
        if self.signum and trainer.world_size == 1:
            raise Interrupted(self.signum)

    def teardown(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Listen no longer."""
        for signum, handler in self.former.items():
            signal.signal(signum, handler)
        self.former.clear()

    def _note(self, signum: int, frame: Any) -> None:
        self.signum = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
