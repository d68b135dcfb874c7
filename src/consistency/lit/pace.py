"""What a run spends on training and on validation, and how long it still takes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

ONCE = ("reference", "floor", "trajectories", "exact function")  # parts of the first validation alone
SHOWN = 3  # parts named in the line at the end


@dataclass(frozen=True)
class RemainingSteps:
    """What is left of a run.

    Args:
        step: k, of the optimiser, where the run stands.
        steps: of the whole run.
        interval: steps between two validations.
    """

    step: int
    steps: int
    interval: int

    @property
    def validations(self) -> int:
        """How many are to come after this step; one follows the last step, due or not."""
        due = self.steps // self.interval - self.step // self.interval
        return due + (self.step < self.steps and self.steps % self.interval > 0)


@dataclass(frozen=True)
class Forecast:
    """What validations will take of a run.

    Args:
        each: seconds of a validation.
        count: validations of the whole run.
        training: seconds of all steps of the run.
        steps: of the whole run.
    """

    each: float
    count: int
    training: float
    steps: int

    @property
    def share(self) -> float:
        """Of validations, from 0 to 1."""
        seconds = self.each * self.count
        return seconds / (seconds + self.training)

    def interval(self, share: float) -> int | None:
        """Steps between two validations that make them at most such a share; None where one alone is more."""
        most = int(share / (1 - share) * self.training / self.each)
        return ceil(self.steps / most) if 1 <= most < self.count else None


class Pace:
    """Seconds of training steps and of validations, over all processes that went on with the run.

    Args:
        now: the clock, in seconds.
        parts: () -> seconds that parts of validations have taken in this process, by name.
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
        """Something begins whose time is to be measured."""
        self.since, self.before = self.now(), self.parts()

    def trained(self, steps: int) -> None:
        """So many steps have been made since."""
        seconds = self.now() - self.since
        self.training += seconds
        self.stepping += seconds
        self.steps += steps
        self.start()

    def validated(self, complete: bool = True) -> None:
        """A validation, or only the look at the samples of the beginning, has been made since."""
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
        """Seconds until the end, and whether those of validations are among them."""
        known = self.each is not None or plan.validations == 0
        seconds = (self.step or 0.0) * (plan.steps - plan.step)
        return seconds + plan.validations * (self.each or 0.0), known

    def forecast(self, each: float, plan: RemainingSteps) -> Forecast:
        """Of the whole run, if a validation, of which the first is at work, takes so many seconds."""
        training = self.training + (self.step or 0.0) * (plan.steps - plan.step)
        return Forecast(each, self.validations + 1 + plan.validations, training, plan.steps)

    def share(self) -> float:
        """Of the run so far that went into validations, from 0 to 1."""
        total = self.training + self.validation
        return self.validation / total if total else 0.0

    def to_plain(self) -> dict[str, Any]:
        """For result.json."""
        return {
            "count": self.validations,
            "seconds": self.validation,
            "share": self.share(),
            "parts": dict(self.by_part),
        }

    def line(self) -> str:
        """For people: how much of the run went into validations, and into which of their parts."""
        by_seconds = sorted(self.by_part.items(), key=lambda each: -each[1])
        most = [f"{name} {seconds:.0f} s" for name, seconds in by_seconds[:SHOWN] if seconds >= 1]
        parts = f": {', '.join(most)}" if most else ""
        spent = f"{self.validations} in {self.validation:.0f} s, {self.share():.0%} of the run"
        return f"{'validation':<12} {spent}{parts}"

    def state(self) -> dict[str, Any]:
        """As plain data, for a checkpoint."""
        return {
            "training": self.training,
            "validation": self.validation,
            "validations": self.validations,
            "parts": dict(self.by_part),
        }

    def take(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint holds."""
        self.training, self.validation = state["training"], state["validation"]
        self.validations, self.by_part = state["validations"], dict(state["parts"])
