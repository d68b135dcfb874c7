"""Measures validations: their progress, and their share of the time of a run."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from lightning import Callback, Trainer

from consistency.data.loader import Request
from consistency.errors import UserError
from consistency.lit.data.module import data_of
from consistency.lit.module import Module
from consistency.lit.run_times import Forecast, RemainingSteps, RunTimes
from consistency.process.notices import notice
from consistency.watch import Work, clock, in_pieces, seconds_by_part

ENOUGH = 5.0  # seconds of sampling from which the duration of a validation is estimated
LEAST = 60.0  # seconds of all validations together, below which no notice is printed


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
    """Times validations, and prints a notice at the first one if all will take more than a share of the run.

    It opens and closes the work "samples" (`consistency.watch.in_pieces`), and must therefore stand before
    all callbacks that compute at the end of a validation.

    The measured times never change what is validated: the metrics of a run follow from its config.

    Args:
        share: share of the time of a run, in (0, 1), above which the notice is printed.
    """

    def __init__(self, share: float = 0.1) -> None:
        if not 0 < share < 1:
            raise UserError(f"callbacks.validation.share={share} must lie between 0 and 1")
        self.share = share
        self.times = RunTimes(parts=seconds_by_part)
        self.sampling: AbstractContextManager[None] | None = None
        self.step: int | None = None  # of the last measurement
        self.work = 0  # network calls on one sample in a validation, on this process
        self.estimated = False  # whether the first validation has been estimated

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Start the clock: other callbacks call the network before the first step."""
        self.times.start()
        self.step = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """End the time before the first step, which counts as validation."""
        if self.step is None:
            self.times.validated(complete=False)
            self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Count the steps, for the time left."""
        if self.step is not None and trainer.global_step > self.step:  # a step may take several batches
            self.times.trained(trainer.global_step - self.step)
            self.step = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Restart the clock."""
        if self.step is None or trainer.state.fn != "fit":
            self.times.start()
        else:
            self.times.trained(0)  # the time since the last step, such as that of writing a checkpoint

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Module, batch: Request, index: int, *_: Any
    ) -> None:
        """Begin the work "samples" at the first batch."""
        if index == 0:
            self._begin(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """End the work "samples"; a process without a batch begins and ends it here."""
        if self.sampling is None:
            self._begin(trainer, pl_module)
        sampling, self.sampling = self.sampling, None
        if sampling is not None:
            sampling.__exit__(None, None, None)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Stop the clock."""
        self.times.validated()

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """Close the bar before the error is printed."""
        sampling, self.sampling = self.sampling, None
        if sampling is not None:
            sampling.__exit__(type(exception), exception, exception.__traceback__)

    def state_dict(self) -> dict[str, Any]:
        """The seconds that the run has spent so far."""
        return self.times.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load them."""
        self.times.load_state_dict(state_dict)

    def _begin(self, trainer: Trainer, module: Module) -> None:
        calls = sum(sampler.nfe for sampler in module.samplers.values())
        samples = sum(map(len, data_of(trainer).val_dataloader().batches))
        self.work = calls * samples + sum(extra.calls(trainer, module) for extra in extras_of(trainer))
        self.sampling = in_pieces("samples", calls * samples, lambda now: self._estimate(trainer, now))
        self.sampling.__enter__()

    def _estimate(self, trainer: Trainer, now: Work) -> None:
        """Print the notice during the first validation, once enough of it is done for an estimate."""
        seconds = self.times.now() - now.begun
        if self.estimated or seconds < ENOUGH or not now.done or self.times.step is None:
            return
        self.estimated = True
        if self.times.each is None:
            forecast = self.times.forecast(seconds / now.done * self.work, remaining_steps(trainer))
            if forecast.share > self.share and forecast.each * forecast.count > LEAST:
                notice(self._cost_notice(trainer, forecast))

    def _cost_notice(self, trainer: Trainer, forecast: Forecast) -> str:
        """The duration of validations, and the settings that would shorten them."""
        interval, own = forecast.interval(self.share), f"data.samples (now {data_of(trainer).samples})"
        sizes = [own, *(extra.size for extra in extras_of(trainer))]
        rarer = "" if interval is None else f"trainer.val_check_interval={interval}, or "
        return (
            f"validation: about {clock(forecast.each)} each time, {forecast.count} in all, "
            f"{forecast.share:.0%} of this run; {rarer}a smaller {' or '.join(sizes)} makes it less"
        )


def remaining_steps(trainer: Trainer) -> RemainingSteps:
    """The steps and validations that are left of a run."""
    interval = int(trainer.val_check_interval) // trainer.accumulate_grad_batches
    return RemainingSteps(trainer.global_step, trainer.max_steps, max(interval, 1))


def extras_of(trainer: Trainer) -> list[Extra]:
    """What a validation does beside making samples."""
    return [c for c in trainer.callbacks if isinstance(c, Extra)]  # type: ignore[attr-defined]


def validation_of(trainer: Trainer) -> Validation | None:
    """The callback that times the validations of a run, if it has one."""
    return next((c for c in trainer.callbacks if isinstance(c, Validation)), None)  # type: ignore[attr-defined]
