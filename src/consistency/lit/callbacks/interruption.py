"""Ctrl-C and SIGTERM: finish the step, save, and go."""

import signal
from typing import Any

from lightning import Callback, LightningModule, Trainer

from consistency.lit.peers import Flag
from consistency.process.late import Late
from consistency.process.stops import STOPPING, Interrupted, listen, mark_signal, stop

EVERY = 10  # steps between two questions to the other processes


class Interruption(Callback):
    """Turns a signal into an exception at the end of the step, when weights and counters agree.

    In a validation it takes effect between two of its pieces, see `consistency.watch.in_pieces`: a process
    that hears of a signal, its own or that of another, does no further piece, and waits for the others where
    they agree to stop. A second signal takes effect at once. In the validation that follows training a single
    process stops at once by itself.
    """

    def __init__(self) -> None:
        self.signum, self.former = 0, {}
        self.trainer: Trainer | None = None  # while this listens
        self.flag: Flag | None = None  # of several processes
        self.late: Late | None = None  # while this listens

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, in place of Lightning."""
        self._listen(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop on all processes at the same step; to ask all of them at every step would cost time."""
        if trainer.world_size > 1 and trainer.global_step % EVERY:
            return
        self._stop_together(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen where no training does."""
        if trainer.world_size > 1 and trainer.state.fn != "fit":
            self._listen(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Several processes have validated to the end."""
        if trainer.world_size > 1 and trainer.state.fn != "fit":
            self._stop_together(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """What follows is not asked."""
        self._leave()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no longer; after an exception Lightning has put other handlers in place already.

        A signal that came when no step was left is obeyed here.
        """
        self._leave()
        for signum, handler in self.former.items():
            if signal.getsignal(signum) == self._note:
                signal.signal(signum, handler)
        self.former.clear()
        if self.signum and trainer.world_size == 1:
            raise Interrupted(self.signum)

    def between(self) -> None:
        """Stop between two pieces of a validation, if this process or another has been told to."""
        if self.trainer is not None and self._has_heard():
            self._stop_together(self.trainer)

    def together(self) -> None:
        """Stop after a part of a validation, which all processes come to."""
        if self.trainer is not None:
            self._stop_together(self.trainer)

    def _has_heard(self) -> bool:
        if self.flag is None:
            return bool(self.signum)
        if self.signum:
            self.flag.raise_()
        return bool(self.signum) or self.flag.is_up()

    def _listen(self, trainer: Trainer) -> None:
        self.trainer, self.flag = trainer, Flag("stopping") if trainer.world_size > 1 else None
        self._hush()
        self.late = Late()
        listen(self)
        for signum in STOPPING:
            self.former[signum] = signal.signal(signum, self._note)

    def _leave(self) -> None:
        if self.trainer is not None:
            self.trainer, self.flag = None, None
            listen(None)
        self._hush()

    def _hush(self) -> None:
        if self.late is not None:
            self.late.end()
            self.late = None

    def _stop_together(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(bool(self.signum), all=False):
            self._hush()
            raise Interrupted(self.signum or signal.SIGTERM, trainer.global_step)

    def _note(self, signum: int, frame: Any) -> None:
        self.signum = signum
        mark_signal()
        if self.late is not None:
            self.late.note(signum)
        signal.signal(signum, stop)
