"""The history of a run: the steps made by each process that trained it, with device, rate and seconds."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import Callback, Trainer

from consistency.lit.module import Module

Segment = dict[str, Any]


class Clock:
    """Counts the seconds that a run has taken, over all commands that resumed it.

    Args:
        before: seconds of earlier commands.
    """

    def __init__(self, before: float = 0.0) -> None:
        self.before = before
        self.start()

    def start(self) -> None:
        """Start to count, when training begins."""
        self.since = time.monotonic()

    def seconds(self) -> float:
        """Seconds of the run until now."""
        return self.before + time.monotonic() - self.since


class History(Callback):
    """Keeps a list of segments, one for each time that the run was started, resumed or rolled back.

    A checkpoint holds the segments up to its step. A run that rolls back to it therefore lists no step twice;
    the seconds of the lost steps are added to the next segment.

    Args:
        facts: further values of a segment, beside its steps, rate, device, processes and seconds.
        changed: key of the config -> [old, new], for values that changed since the last segment.
        device: device -> its name.
        clock: of the run.
    """

    def __init__(
        self,
        facts: Mapping[str, Any],
        changed: Mapping[str, list[Any]],
        device: Callable[[torch.device], str],
        clock: Clock,
    ) -> None:
        self.facts, self.changed, self.device, self.clock = facts, changed, device, clock
        self.earlier: list[Segment] = []
        self.now: Segment | None = None
        self.step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """Make one segment of all steps of a checkpoint of an older version, which has no history."""
        if self.state_key not in checkpoint["callbacks"]:
            config, k = checkpoint["config"], checkpoint["global_step"]
            size = config.get("data", {}).get("batch_size")
            self.earlier = [{"steps": [0, k], "batch_size": size, "seconds": 0.0}]

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Begin a segment."""
        self.step = trainer.global_step
        self.now = {
            "steps": [self.step, self.step],
            **self.facts,
            "lr": pl_module.rate_factor * pl_module.group_options[0]["lr"],
            "device": self.device(pl_module.device),
            "processes": trainer.world_size,
            "changed": {} if self._is_known() else dict(self.changed),
        }

    def _is_known(self) -> bool:
        """Whether the last segment lists these changes already, as after a rollback of this process."""
        return bool(self.earlier) and self.earlier[-1].get("changed") == dict(self.changed)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Note the step."""
        self.step = trainer.global_step

    def segments(self) -> list[Segment]:
        """All segments up to this step; the seconds of this process are part of the last."""
        spent = self.clock.seconds() - total_seconds(self.earlier)
        if self.earlier and (self.now is None or self.step == self.now["steps"][0]):
            *first, last = self.earlier
            return [*first, {**last, "seconds": last["seconds"] + spent}]
        if self.now is None:
            return []
        now = {**self.now, "steps": [self.now["steps"][0], self.step], "seconds": spent}
        return [*self.earlier, now]

    def state_dict(self) -> dict[str, Any]:
        """The segments."""
        return {"segments": self.segments()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the segments that have steps; the seconds of others go to the next segment."""
        self.earlier = [s for s in state_dict["segments"] if s["steps"][0] < s["steps"][1]]


def segments_of(checkpoint: Mapping[str, Any]) -> list[Segment]:
    """The segments of a checkpoint; none in one of an older version without a history."""
    return checkpoint["callbacks"].get(History.__qualname__, {}).get("segments", [])


def total_images(segments: list[Segment]) -> int:
    """Number of training samples in all steps; 0 for segments whose batch size is not known."""
    return sum((s["steps"][1] - s["steps"][0]) * (s["batch_size"] or 0) for s in segments)


def total_seconds(segments: list[Segment]) -> float:
    """Seconds of all segments."""
    return sum(s["seconds"] for s in segments)
