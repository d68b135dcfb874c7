"""The processes of a sweep: several runs at a time, all of which have ended when the sweep ends."""

import queue
import sys
from collections.abc import Sequence
from pathlib import Path

from consistency.errors import UserError
from consistency.quoting import path_override
from consistency.sweep.child import Child, Ended, Event
from consistency.sweep.runs import Run, forget_fault

CHECKPOINTS = "checkpoints"


class Pool:
    """Starts runs, and returns their events.

    Args:
        size: runs at a time.
        go_on: overrides of a run that has begun before, such as ckpt_path=last.
    """

    def __init__(self, size: int, go_on: Sequence[str]) -> None:
        if type(size) is not int or size < 1:
            raise UserError(f"hydra.launcher.n_jobs={size} must be a whole number, 1 or greater")
        self.size, self.go_on = size, list(go_on)
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.children: dict[Path, Child] = {}

    @property
    def is_full(self) -> bool:
        """Whether another run must wait."""
        return len(self.children) >= self.size

    def start(self, run: Run) -> None:
        """Start a run, or resume it."""
        forget_fault(run.directory)
        begun = any((run.directory / CHECKPOINTS).glob("*.ckpt"))
        again = self.go_on if begun else []
        replaced = ("hydra.mode", *map(override_key, again))
        given = [override for override in run.overrides if override_key(override) not in replaced]
        more = ["hydra.mode=RUN", path_override("run_dir", run.directory), *again]
        self.children[run.directory] = Child(run, [*given, *more], self.events.put, self.size - 1)

    def wait(self) -> Event:
        """Wait for the next event of any run."""
        event = self.events.get()
        if isinstance(event, Ended):
            del self.children[event.run.directory]
        return event

    def stop_run(self, run: Run) -> None:
        """Stop a run, which saves and ends; the event `Ended` follows."""
        self.children[run.directory].stop_run()

    def close(self) -> None:
        """Stop all runs, and wait until they have saved and ended."""
        if self.children:
            print(f"waiting for {len(self.children)} runs to save and end", file=sys.stderr, flush=True)
        for child in self.children.values():
            child.stop_run()
        while self.children:
            self.wait()


def override_key(override: str) -> str:
    """The key of an override."""
    return override.partition("=")[0].lstrip("+")
