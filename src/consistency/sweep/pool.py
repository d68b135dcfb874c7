"""The processes of a sweep: several runs side by side, and none left over."""

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
    """Starts runs, and says what happens to them.

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
        """Begin a run, or go on with it."""
        forget_fault(run.directory)
        begun = any((run.directory / CHECKPOINTS).glob("*.ckpt"))
        again = self.go_on if begun else []
        replaced = ("hydra.mode", *map(override_key, again))
        given = [override for override in run.overrides if override_key(override) not in replaced]
        more = ["hydra.mode=RUN", path_override("run_dir", run.directory), *again]
        self.children[run.directory] = Child(run, [*given, *more], self.events.put, self.size - 1)

    def wait(self) -> Event:
        """The next thing that happens."""
        event = self.events.get()
        if isinstance(event, Ended):
            del self.children[event.run.directory]
        return event

    def let_go(self, run: Run) -> None:
        """Have a run save and end; `Ended` follows."""
        self.children[run.directory].let_go()

    def close(self) -> None:
        """Have all runs save and end, and wait for them."""
        if self.children:
            print(f"waiting for {len(self.children)} runs to save and end", file=sys.stderr, flush=True)
        for child in self.children.values():
            child.let_go()
        while self.children:
            self.wait()


def override_key(override: str) -> str:
    """The key of an override."""
    return override.partition("=")[0].lstrip("+")
