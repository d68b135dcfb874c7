"""A run that must not go on from where it is, and what others ask of the guard that says so.

The guard itself is `consistency.lit.callbacks.guard.Guard`.
"""

from abc import ABC, abstractmethod

from lightning import Callback, Trainer

from consistency.lit.record import RollbackRecord, sigma_range


class Diverged(RuntimeError):  # noqa: N818 - what happened to the run
    """A run that must not go on from where it is. No weight has been changed since the last step.

    Args:
        reason: what was seen.
        step: k, of the optimiser.
        low: the least noise concerned.
        high: the most.
    """

    def __init__(self, reason: str, step: int, low: float, high: float) -> None:
        super().__init__(f"{reason} at step {step}, {sigma_range(low, high)}")
        self.reason, self.step, self.low, self.high = reason, step, low, high


class Collapsed(Diverged):
    """Samples that have become alike: what is wrong began before the validation that saw it."""


class AbstractGuard(Callback, ABC):
    """A callback that raises `Diverged`, and slows a run that went back because of it.

    Args:
        rollbacks: how often a run may go back to its last good checkpoint.
        slower: factor on the learning rate at every rollback, in (0, 1].

    Attributes:
        record: of all rollbacks so far.
        passed: step of the last validation whose samples were judged good; None for none.
    """

    def __init__(self, rollbacks: int, slower: float) -> None:
        self.rollbacks, self.slower = rollbacks, slower
        self.record = RollbackRecord()
        self.passed: int | None = None

    @property
    def factor(self) -> float:
        """What all rollbacks so far have made of the learning rate."""
        return self.slower**self.record.count

    @property
    @abstractmethod
    def calm(self) -> bool:
        """Whether no loss of the last step was so high that it may be the first of a spike."""


def guard_of(trainer: Trainer) -> AbstractGuard | None:
    """The guard of a run, if it has one."""
    return next((c for c in trainer.callbacks if isinstance(c, AbstractGuard)), None)  # type: ignore[attr-defined]
