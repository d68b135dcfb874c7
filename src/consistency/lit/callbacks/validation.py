"""A validation: how far it is, a stop between two of its pieces, and what it costs beside training."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from lightning import Callback, Trainer

from consistency.data.loader import Request
from consistency.errors import UserError
from consistency.lit.data.module import data_of
from consistency.lit.module import Module
from consistency.lit.pace import Forecast, Pace, RemainingSteps
from consistency.process.notices import notice
from consistency.watch import Work, clock, in_pieces, seconds_by_part

ENOUGH = 5.0  # seconds of a part by which the whole is estimated
LEAST = 60.0  # seconds of all validations together, below which nothing is said of them


class Extra(Callback, ABC):
    """A callback that calls networks in a validation, beside the samples that are made there."""

    @abstractmethod
    def calls(self, trainer: Trainer, module: Module) -> int:
        """Samples that go through a network because of it, in each validation."""

    @property
    @abstractmethod
    def size(self) -> str:
        """The key of the config that makes it less, and its value: `callbacks.signals.count (now 256)`."""


class Validation(Callback):
    """Measures validations, and says at the first one if all of them will be more than a share of the run.

    It opens and closes the part in which samples are made (`consistency.watch.in_pieces`), and must therefore
    stand before all callbacks that compute at the end of a validation.

    What is validated never follows from the time that it takes: the numbers of a run are those of its config.

    Args:
        share: of the run, above which the line is written, in (0, 1).
    """

    def __init__(self, share: float = 0.1) -> None:
        if not 0 < share < 1:
            raise UserError(f"callbacks.validation.share={share} must lie between 0 and 1")
        self.share = share
        self.pace = Pace(parts=seconds_by_part)
        self.sampling: AbstractContextManager[None] | None = None
        self.step: int | None = None  # of the last measurement
        self.work = 0  # samples that go through the network in a validation, on this process
        self.said = False

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Start the clock: other callbacks look at the network before its first step."""
        self.pace.start()
        self.step = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Now the steps begin."""
        if self.step is None:
            self.pace.validated(complete=False)
            self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Count the steps, for the time left."""
        if self.step is not None and trainer.global_step > self.step:  # a step may take several batches
            self.pace.trained(trainer.global_step - self.step)
            self.step = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Start the clock anew."""
        if self.step is None or trainer.state.fn != "fit":
            self.pace.start()
        else:
            self.pace.trained(0)  # such as a checkpoint

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Module, batch: Request, index: int, *_: Any
    ) -> None:
        """Begin to make samples."""
        if index == 0:
            self._begin(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """All samples are made, on this process, which may have had none to make."""
        if self.sampling is None:
            self._begin(trainer, pl_module)
        sampling, self.sampling = self.sampling, None
        if sampling is not None:
            sampling.__exit__(None, None, None)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Stop the clock."""
        self.pace.validated()

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """Close what is open, so that the message stands alone."""
        sampling, self.sampling = self.sampling, None
        if sampling is not None:
            sampling.__exit__(type(exception), exception, exception.__traceback__)

    def state_dict(self) -> dict[str, Any]:
        """What the run has spent so far."""
        return self.pace.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.pace.take(state_dict)

    def _begin(self, trainer: Trainer, module: Module) -> None:
        calls = sum(sampler.nfe for sampler in module.samplers.values())
        samples = sum(map(len, data_of(trainer).val_dataloader().batches))
        self.work = calls * samples + sum(extra.calls(trainer, module) for extra in extras_of(trainer))
        self.sampling = in_pieces("samples", calls * samples, lambda now: self._estimate(trainer, now))
        self.sampling.__enter__()

    def _estimate(self, trainer: Trainer, now: Work) -> None:
        """Say early what validations will cost."""
        seconds = self.pace.now() - now.begun
        if self.said or seconds < ENOUGH or not now.done or self.pace.step is None:
            return
        self.said = True
        if self.pace.each is None:
            forecast = self.pace.forecast(seconds / now.done * self.work, pace_plan(trainer))
            if forecast.share > self.share and forecast.each * forecast.count > LEAST:
                notice(self._line(trainer, forecast))

    def _line(self, trainer: Trainer, forecast: Forecast) -> str:
        """What they cost, and what makes it less."""
        interval, own = forecast.interval(self.share), f"data.samples (now {data_of(trainer).samples})"
        sizes = [own, *(extra.size for extra in extras_of(trainer))]
        rarer = "" if interval is None else f"trainer.val_check_interval={interval}, or "
        return (
            f"validation: about {clock(forecast.each)} each time, {forecast.count} in all, "
            f"{forecast.share:.0%} of this run; {rarer}a smaller {' or '.join(sizes)} makes it less"
        )


def pace_plan(trainer: Trainer) -> RemainingSteps:
    """What is left of a run."""
    interval = int(trainer.val_check_interval) // trainer.accumulate_grad_batches
    return RemainingSteps(trainer.global_step, trainer.max_steps, max(interval, 1))


def extras_of(trainer: Trainer) -> list[Extra]:
    """What a validation does beside making samples."""
    return [c for c in trainer.callbacks if isinstance(c, Extra)]  # type: ignore[attr-defined]


def validation_of(trainer: Trainer) -> Validation | None:
    """What measures the validations of a run, if anything does."""
    return next((c for c in trainer.callbacks if isinstance(c, Validation)), None)  # type: ignore[attr-defined]
