"""Stops a run on Ctrl-C and SIGTERM after the step in progress, which is saved."""

import signal
from typing import Any

from lightning import Callback, LightningModule, Trainer

from consistency.lit.peers import Flag
from consistency.process.late import Late
from consistency.process.stops import STOPPING, Interrupted, listen, mark_signal, stop

EVERY = 10  # steps between two synchronisations with the other processes


class Interruption(Callback):
    """Raises `Interrupted` at the end of the step in which a signal arrives, when weights and counters agree.

    In a validation it does so between two pieces of work, see `consistency.watch.in_pieces`: a process that
    learns of a signal, sent to it or to another process, starts no further piece and waits for the others to
    agree on stopping. A second signal stops the process at once. In the validation that follows training, a
    run of one process has the default handlers, and stops at once.
    """

    def __init__(self) -> None:
        self.signum, self.former = 0, {}
        self.trainer: Trainer | None = None  # while signals are handled here
        self.flag: Flag | None = None  # of several processes
        self.late: Late | None = None  # while signals are handled here

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers, in place of Lightning's."""
        self._listen(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop all processes at the same step. They synchronise every `EVERY` steps, as that takes time."""
        if trainer.world_size > 1 and trainer.global_step % EVERY:
            return
        self._stop_together(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers for a validation after training, where there are several processes."""
        if trainer.world_size > 1 and trainer.state.fn != "fit":
            self._listen(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after such a validation, if a signal has arrived."""
        if trainer.world_size > 1 and trainer.state.fn != "fit":
            self._stop_together(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Handle no signals any more: nothing after an exception checks for them."""
        self._leave()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the former handlers, unless Lightning has replaced them after an exception.

        A signal that arrived after the last step takes effect here.
        """
        self._leave()
        for signum, handler in self.former.items():
            if signal.getsignal(signum) == self._note:
                signal.signal(signum, handler)
        self.former.clear()
        if self.signum and trainer.world_size == 1:
            raise Interrupted(self.signum)

    def between(self) -> None:
        """Stop between two pieces of work, if a signal has arrived at this process or another."""
        if self.trainer is not None and self._is_signalled():
            self._stop_together(self.trainer)

    def together(self) -> None:
        """Stop at the end of a work, which all processes reach, if a signal has arrived at any of them."""
        if self.trainer is not None:
            self._stop_together(self.trainer)

    def _is_signalled(self) -> bool:
        if self.flag is None:
            return bool(self.signum)
        if self.signum:
            self.flag.set()
        return bool(self.signum) or self.flag.is_set()

    def _listen(self, trainer: Trainer) -> None:
        self.trainer, self.flag = trainer, Flag("stopping") if trainer.world_size > 1 else None
        self._end_late()
        self.late = Late()
        listen(self)
        for signum in STOPPING:
            self.former[signum] = signal.signal(signum, self._note)

    def _leave(self) -> None:
        if self.trainer is not None:
            self.trainer, self.flag = None, None
            listen(None)
        self._end_late()

    def _end_late(self) -> None:
        if self.late is not None:
            self.late.end()
            self.late = None

    def _stop_together(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(bool(self.signum), all=False):
            self._end_late()
            raise Interrupted(self.signum or signal.SIGTERM, trainer.global_step)

    def _note(self, signum: int, frame: Any) -> None:
        self.signum = signum
        mark_signal()
        if self.late is not None:
            self.late.note(signum)
        signal.signal(signum, stop)
