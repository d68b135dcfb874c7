"""The record of a run's rollbacks, which every checkpoint holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Rollback:
    """One rollback: a run diverged, and returned to an earlier state.

    Args:
        step: k, of the optimiser, at which the divergence was detected.
        reason: what was detected.
        low: lowest σ concerned.
        high: highest σ concerned.
        checkpoint: name of the file of the earlier state; None for the beginning.
        back_to: step of the earlier state.
    """

    step: int
    reason: str
    low: float
    high: float
    checkpoint: str | None
    back_to: int

    @property
    def fault(self) -> str:
        """The reason with its step and noise levels."""
        return f"{self.reason} at step {self.step}, {sigma_range(self.low, self.high)}"

    def __str__(self) -> str:
        where = "the beginning" if self.back_to == 0 else f"step {self.back_to} ({self.checkpoint})"
        return f"{self.fault}: back to {where}"


class RollbackRecord:
    """The rollbacks of a run so far.

    A checkpoint holds the record up to its own step. A run that rolls back to it keeps the longer record.
    """

    def __init__(self) -> None:
        self.count = 0
        self.listed: list[Rollback] = []  # fewer than `count` where an older version has not listed them
        self.ended = False  # whether the last one exceeded the number allowed, which ends the run
        self.written = 0  # number of rollbacks in the checkpoint that the run resumes from
        self.logged: int | None = None  # number of rollbacks in the log; None before anything is logged

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> "RollbackRecord":
        """The record of a checkpoint."""
        record = cls()
        record.load_state_dict({"rollbacks": 0} | checkpoint["callbacks"].get("Guard", {}))
        return record

    def add(self, rollback: Rollback, allowed: int) -> None:
        """Add a rollback, of which `allowed` are."""
        self.ended = self.count >= allowed
        self.count += 1
        self.listed.append(rollback)

    def take(self, record: "RollbackRecord") -> None:
        """Copy the record of the run before the rollback."""
        self.count, self.listed, self.ended = record.count, list(record.listed), record.ended

    def unlogged(self) -> list[Rollback]:
        """The rollbacks that are not in the log yet."""
        missing = self.count - (self.logged or 0)
        return self.listed[-missing:] if missing else []

    def to_plain(self) -> list[dict[str, Any]]:
        """The rollbacks as plain data, for checkpoints and JSON."""
        return [asdict(rollback) for rollback in self.listed]

    def state_dict(self) -> dict[str, Any]:
        """The record, for a checkpoint."""
        logged = self.logged or 0
        return {"rollbacks": self.count, "events": self.to_plain(), "ended": self.ended, "logged": logged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the record of a checkpoint, unless it has fewer rollbacks than this one."""
        self.written = state["rollbacks"]
        self.logged = state.get("logged", self.written)
        if self.written >= self.count:
            self.count, self.ended = self.written, state.get("ended", False)
            self.listed = [Rollback(**event) for event in state.get("events", [])]


def sigma_range(low: float, high: float) -> str:
    """A range of noise levels as text, such as `σ from 0.1 to 2`."""
    return f"σ = {low:.3g}" if low == high else f"σ from {low:.3g} to {high:.3g}"
