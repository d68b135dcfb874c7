"""A run of a sweep as a process: starting it, reading its reports, stopping it, and reading its result."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TextIO

from consistency.errors import UserError
from consistency.process.entry import program
from consistency.process.lifeline import VARIABLE
from consistency.process.stops import STOPPING
from consistency.sweep.identity import override_settings, shorter
from consistency.sweep.runs import Run, RunState, keep_fault, plan_run, result_of, run_in

ENCODED = {"PYTHONIOENCODING": "utf-8"}  # of output that is read here
STOPPED = {128 + signum for signum in STOPPING}  # exit statuses of a run that has saved and ended


@dataclass(frozen=True)
class ValidationReport:
    """A run has validated.

    Args:
        run: as it was when it began.
        step: k, of the optimiser.
        value: of the metric that the sweep optimises; None where it is not finite.
        last: whether the run ends with this step.
    """

    run: Run
    step: int
    value: float | None
    last: bool = False


@dataclass(frozen=True)
class Ended:
    """A run has ended.

    Args:
        run: with what has come of it.
    """

    run: Run


Event = ValidationReport | Ended


class Child:
    """The process of a run.

    Args:
        run: what it is, and where it works.
        arguments: of its command line.
        tell: called in threads of its own with what happens; the last is `Ended`.
        beside: how many other runs may work at the same time. The output of a run that is alone goes where
            that of the sweep goes; that of others is prefixed with the name of the run.
    """

    def __init__(
        self, run: Run, arguments: Sequence[str], tell: Callable[[Event], None], beside: int
    ) -> None:
        self.run, self.tell = run, tell
        self.failure: dict[str, Any] = {}
        self.line, theirs = socket.socketpair()
        piped = subprocess.PIPE if beside else None
        with theirs:
            self.process = subprocess.Popen(
                [*program(), *arguments],
                env=child_environment(theirs.fileno(), beside + 1) | (ENCODED if beside else {}),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=piped,
                stderr=piped,
                encoding="utf-8",
                errors="replace",
            )
        streams = [(self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr)]
        self.readers = [threading.Thread(target=self._listen, daemon=True)]
        self.readers += [
            threading.Thread(target=copy, args=[f"[{run.name}] ", source, sink], daemon=True)
            for source, sink in streams
            if source is not None
        ]
        for reader in self.readers:
            reader.start()
        threading.Thread(target=self._await, daemon=True).start()

    def stop_run(self) -> None:
        """Close its socket, on which it saves and ends."""
        with suppress(OSError):  # it has ended
            self.line.shutdown(socket.SHUT_WR)

    def _listen(self) -> None:
        with suppress(OSError), self.line.makefile(encoding="utf-8") as lines:
            for line in lines:
                said = json.loads(line)
                if "failed" in said:
                    self.failure = said
                else:
                    self.tell(
                        ValidationReport(self.run, said["step"], said["value"], said.get("last", False))
                    )

    def _await(self) -> None:
        status = self.process.wait()
        for reader in self.readers:
            reader.join(timeout=5.0)  # a process that the run has started may still hold its streams
        self.line.close()
        try:
            self.tell(Ended(state_of_ended(self.run, status, self.failure)))
        except (UserError, OSError) as error:  # its files are gone or damaged: the other runs go on
            self.tell(Ended(replace(self.run, state=RunState.FAILED, result=None, reason=str(error))))


def child_environment(line: int, together: int) -> dict[str, str]:
    """Environment variables of a run: its socket, and its share of the CPU cores unless that is set."""
    given = {**os.environ, VARIABLE: str(line)}
    if together > 1:
        given.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // together, 1)))
    return given


def copy(prefix: str, source: TextIO, sink: TextIO) -> None:
    """Print each line of a stream under a prefix."""
    with source, suppress(ValueError):  # closed meanwhile
        for line in source:
            sink.write(f"{prefix}{line.rstrip()}\n")
            sink.flush()


def state_of_ended(run: Run, status: int, failure: dict[str, Any]) -> Run:
    """The state of a run whose process has ended; the reason of a failure is written to its directory.

    Args:
        run: as it was when it began.
        status: of its process; negative where a signal has ended it.
        failure: what it has said of the reason.
    """
    found = run_in(run.directory)
    ended = result_of(run.directory) if status == 0 and found.result is None else None
    if ended is not None and not shorter(
        override_settings(run.overrides), override_settings(ended["overrides"])
    ):
        return plan_run(
            run.directory, ended["overrides"]
        )  # nothing was left to do: it is what its result says
    if found.result is not None or status in STOPPED:
        return found
    if failure:
        keep_fault(run.directory, RunState(failure["state"]), failure["failed"])
    elif status < 0:
        keep_fault(run.directory, RunState.FAILED, f"its process was ended by {signal.Signals(-status).name}")
    else:
        keep_fault(run.directory, RunState.FAILED, f"its process ended with status {status} and no result")
    return run_in(run.directory)
