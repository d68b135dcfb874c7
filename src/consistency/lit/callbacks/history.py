"""The history of a run: which steps were made with what."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import Callback, Trainer

from consistency.lit.module import Module

Segment = dict[str, Any]


class Clock:
    """The time that a run has taken, in all processes that went on with it.

    Args:
        before: seconds of earlier processes.
    """

    def __init__(self, before: float = 0.0) -> None:
        self.before = before
        self.start()

    def start(self) -> None:
        """Now this process begins to train."""
        self.since = time.monotonic()

    def seconds(self) -> float:
        """Until now."""
        return self.before + time.monotonic() - self.since


class History(Callback):
    """Keeps a list of segments, one for each time that the run was begun or gone on with.

    A checkpoint holds the segments up to its step. So a run that goes back to one keeps no step twice; the
    seconds of the steps that were lost count to the segment that follows.

    Args:
        facts: what a segment says beside its steps, rate, device, processes and seconds.
        changed: key -> [old, new], of the config since the segment before.
        device: a device in words.
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
        """Where the checkpoint has no history, its steps are a segment of which nothing else is known."""
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
            "lr": pl_module.slower * pl_module.given[0]["lr"],
            "device": self.device(pl_module.device),
            "processes": trainer.world_size,
            "changed": {} if self._is_known() else dict(self.changed),
        }

    def _is_known(self) -> bool:
        """Whether the change came before the checkpoint, by this process, which has gone back to it."""
        return bool(self.earlier) and self.earlier[-1].get("changed") == dict(self.changed)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """One step more."""
        self.step = trainer.global_step

    def segments(self) -> list[Segment]:
        """All up to this step; the seconds of this process are in the last."""
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
        """Take the segments up; the seconds of one without a step count to the segment that follows."""
        self.earlier = [s for s in state_dict["segments"] if s["steps"][0] < s["steps"][1]]


def segments_of(checkpoint: Mapping[str, Any]) -> list[Segment]:
    """The segments that a checkpoint holds; none where it is older than they are."""
    return checkpoint["callbacks"].get(History.__qualname__, {}).get("segments", [])


def total_images(segments: list[Segment]) -> int:
    """Training samples of all steps."""
    return sum((s["steps"][1] - s["steps"][0]) * (s["batch_size"] or 0) for s in segments)


def total_seconds(segments: list[Segment]) -> float:
    """Of all segments."""
    return sum(s["seconds"] for s in segments)
