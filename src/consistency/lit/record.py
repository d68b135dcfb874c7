"""What a run keeps of its rollbacks, in every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Rollback:
    """A run had gone wrong, and went back.

    Args:
        step: k, of the optimiser, at which it was noticed.
        reason: what was seen.
        low: the least noise concerned.
        high: the most.
        checkpoint: name of the file that the run went back to; None for the beginning.
        back_to: the step of that state.
    """

    step: int
    reason: str
    low: float
    high: float
    checkpoint: str | None
    back_to: int

    @property
    def fault(self) -> str:
        """What happened, where."""
        return f"{self.reason} at step {self.step}, {sigma_range(self.low, self.high)}"

    def __str__(self) -> str:
        where = "the beginning" if self.back_to == 0 else f"step {self.back_to} ({self.checkpoint})"
        return f"{self.fault}: back to {where}"


class RollbackRecord:
    """The rollbacks of a run so far.

    A checkpoint holds the record up to its own step. A run that goes back to one keeps the longer record.
    """

    def __init__(self) -> None:
        self.count = 0
        self.listed: list[Rollback] = []  # fewer than `count` where an older version has not listed them
        self.ended = False  # the last one was one more than allowed: the run must not go on by itself
        self.written = 0  # rollbacks in the checkpoint that the run goes on from
        self.logged: int | None = None  # rollbacks in the log; None where nothing has been logged yet

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> "RollbackRecord":
        """What a checkpoint knows of."""
        record = cls()
        record.load_state_dict({"rollbacks": 0} | checkpoint["callbacks"].get("Guard", {}))
        return record

    def add(self, rollback: Rollback, allowed: int) -> None:
        """Count one more."""
        self.ended = self.count >= allowed
        self.count += 1
        self.listed.append(rollback)

    def take(self, record: "RollbackRecord") -> None:
        """Take up the record of the run that has gone back."""
        self.count, self.listed, self.ended = record.count, list(record.listed), record.ended

    def unlogged(self) -> list[Rollback]:
        """What the log does not have yet."""
        missing = self.count - (self.logged or 0)
        return self.listed[-missing:] if missing else []

    def to_plain(self) -> list[dict[str, Any]]:
        """The list, as a checkpoint and JSON can hold it."""
        return [asdict(rollback) for rollback in self.listed]

    def state_dict(self) -> dict[str, Any]:
        """The record at this step."""
        logged = self.logged or 0
        return {"rollbacks": self.count, "events": self.to_plain(), "ended": self.ended, "logged": logged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the record of a checkpoint, unless it is from before the rollback that led to it."""
        self.written = state["rollbacks"]
        self.logged = state.get("logged", self.written)
        if self.written >= self.count:
            self.count, self.ended = self.written, state.get("ended", False)
            self.listed = [Rollback(**event) for event in state.get("events", [])]


def sigma_range(low: float, high: float) -> str:
    """A range of noise levels in words."""
    return f"σ = {low:.3g}" if low == high else f"σ from {low:.3g} to {high:.3g}"
