"""The divergence of a run as an exception, and the interface of the callback that detects it.

The callback itself is `consistency.lit.callbacks.guard.Guard`.
"""

from abc import ABC, abstractmethod

from lightning import Callback, Trainer

from consistency.lit.rollback_record import RollbackRecord, sigma_range


class Diverged(RuntimeError):  # noqa: N818 - what happened to the run
    """Raised when a run has diverged. The weights are still those after the last optimiser step.

    Args:
        reason: what was detected.
        step: k, of the optimiser.
        low: lowest σ concerned.
        high: highest σ concerned.
    """

    def __init__(self, reason: str, step: int, low: float, high: float) -> None:
        super().__init__(f"{reason} at step {step}, {sigma_range(low, high)}")
        self.reason, self.step, self.low, self.high = reason, step, low, high


class Collapsed(Diverged):
    """Raised when samples have lost their variance. The fault began some steps before this validation."""


class AbstractGuard(Callback, ABC):
    """A callback that raises `Diverged`, and lowers the learning rate of a run that was rolled back.

    Args:
        rollbacks: number of rollbacks that a run may make.
        slower: factor on the learning rate at every rollback, in (0, 1].

    Attributes:
        record: of all rollbacks so far.
        passed: step of the last validation whose samples were finite and varied; None for none.
    """

    def __init__(self, rollbacks: int, slower: float) -> None:
        self.rollbacks, self.slower = rollbacks, slower
        self.record = RollbackRecord()
        self.passed: int | None = None

    @property
    def factor(self) -> float:
        """Factor on the learning rate, of all rollbacks so far."""
        return self.slower**self.record.count

    @property
    @abstractmethod
    def calm(self) -> bool:
        """Whether no loss of the last step was so high that a spike may have begun."""


def guard_of(trainer: Trainer) -> AbstractGuard | None:
    """The guard of a run, if it has one."""
    return next((c for c in trainer.callbacks if isinstance(c, AbstractGuard)), None)  # type: ignore[attr-defined]
