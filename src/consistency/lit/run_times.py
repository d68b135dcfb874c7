"""The seconds that a run spends on training and on validation, and an estimate of those that are left."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

ONCE = ("reference", "floor", "trajectories", "exact function")  # works that only the first validation does
SHOWN = 3  # number of works named in the line at the end


@dataclass(frozen=True)
class RemainingSteps:
    """The steps and validations that are left of a run.

    Args:
        step: k, the present step of the optimiser.
        steps: number of steps of the whole run.
        interval: steps between two validations.
    """

    step: int
    steps: int
    interval: int

    @property
    def validations(self) -> int:
        """Number of validations after this step; one follows the last step in any case."""
        due = self.steps // self.interval - self.step // self.interval
        return due + (self.step < self.steps and self.steps % self.interval > 0)


@dataclass(frozen=True)
class Forecast:
    """An estimate of the time of all validations of a run.

    Args:
        each: seconds of one validation.
        count: number of validations of the whole run.
        training: seconds of all training steps.
        steps: number of steps of the whole run.
    """

    each: float
    count: int
    training: float
    steps: int

    @property
    def share(self) -> float:
        """Share of the time of the run that validations take, from 0 to 1."""
        seconds = self.each * self.count
        return seconds / (seconds + self.training)

    def interval(self, share: float) -> int | None:
        """Steps between validations for which they take at most this share; None where one takes more."""
        most = int(share / (1 - share) * self.training / self.each)
        return ceil(self.steps / most) if 1 <= most < self.count else None


class RunTimes:
    """Sums the seconds of training steps and of validations, over all commands that resumed a run.

    Args:
        now: a clock, in seconds.
        parts: () -> seconds that the works of validations have taken in this process, by name.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, parts: Callable[[], Mapping[str, float]] = dict
    ) -> None:
        self.now, self.parts = now, parts
        self.training, self.validation, self.validations = 0.0, 0.0, 0
        self.by_part: dict[str, float] = {}
        self.each: float | None = None  # seconds of a validation, without what only the first one does
        self.steps, self.stepping = 0, 0.0  # of this process
        self.since, self.before = now(), parts()

    def start(self) -> None:
        """Restart the clock."""
        self.since, self.before = self.now(), self.parts()

    def trained(self, steps: int) -> None:
        """Count the time since the clock was restarted as that of so many training steps, and restart it."""
        seconds = self.now() - self.since
        self.training += seconds
        self.stepping += seconds
        self.steps += steps
        self.start()

    def validated(self, complete: bool = True) -> None:
        """Count the time since the clock was restarted as that of a validation, and restart it.

        Args:
            complete: False for the work before the first step, which is no whole validation.
        """
        seconds, parts = self.now() - self.since, self.parts()
        since = {name: spent - self.before.get(name, 0.0) for name, spent in parts.items()}
        self.validation += seconds
        self.by_part |= {name: self.by_part.get(name, 0.0) + spent for name, spent in since.items()}
        if complete:
            self.validations += 1
            self.each = seconds - sum(since.get(name, 0.0) for name in ONCE)
        self.start()

    @property
    def step(self) -> float | None:
        """Seconds of a training step; None before the first."""
        return self.stepping / self.steps if self.steps else None

    def left(self, plan: RemainingSteps) -> tuple[float, bool]:
        """Seconds until the end, and whether they include the validations, whose time may not be known."""
        known = self.each is not None or plan.validations == 0
        seconds = (self.step or 0.0) * (plan.steps - plan.step)
        return seconds + plan.validations * (self.each or 0.0), known

    def forecast(self, each: float, plan: RemainingSteps) -> Forecast:
        """The estimate for the whole run, during its first validation, which takes `each` seconds."""
        training = self.training + (self.step or 0.0) * (plan.steps - plan.step)
        return Forecast(each, self.validations + 1 + plan.validations, training, plan.steps)

    def share(self) -> float:
        """Share of the time so far that validations have taken, from 0 to 1."""
        total = self.training + self.validation
        return self.validation / total if total else 0.0

    def to_plain(self) -> dict[str, Any]:
        """Numbers for result.json."""
        return {
            "count": self.validations,
            "seconds": self.validation,
            "share": self.share(),
            "parts": dict(self.by_part),
        }

    def line(self) -> str:
        """A line for the end of the run: the time of validations, and their longest works."""
        by_seconds = sorted(self.by_part.items(), key=lambda each: -each[1])
        most = [f"{name} {seconds:.0f} s" for name, seconds in by_seconds[:SHOWN] if seconds >= 1]
        parts = f": {', '.join(most)}" if most else ""
        spent = f"{self.validations} in {self.validation:.0f} s, {self.share():.0%} of the run"
        return f"{'validation':<12} {spent}{parts}"

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a checkpoint."""
        return {
            "training": self.training,
            "validation": self.validation,
            "validations": self.validations,
            "parts": dict(self.by_part),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the sums of a checkpoint."""
        self.training, self.validation = state["training"], state["validation"]
        self.validations, self.by_part = state["validations"], dict(state["parts"])
