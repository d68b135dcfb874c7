"""The runs of a sweep: each has a directory with its overrides and its result or the reason of its failure.

DIRECTORY/7/overrides.json    its command line; written before the run begins
DIRECTORY/7/result.json       of a run that has ended
DIRECTORY/7/failed.json       why there is no result; removed when the run is tried again
"""

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from consistency.errors import UserError, strip_controls
from consistency.files.atomic import write_text
from consistency.files.paths import regular
from consistency.process.naming import LOCK
from consistency.result import is_number, read_result
from consistency.schema.recipes import KEYS
from consistency.sweep.identity import override_settings, same_run

OVERRIDES, FAULT, RESULT = "overrides.json", "failed.json", "result.json"
LARGEST = 1_000_000  # largest size in bytes of a file of a run
MOST, LONGEST = 1000, 20_000  # largest number of overrides of a command line, and of their characters


class RunState(StrEnum):
    """The state of a run."""

    WAITING = "not begun"
    RUNNING = "running"
    STOPPED = "stopped"
    FINISHED = "finished"
    DIVERGED = "diverged"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Args:
        directory: where it works.
        overrides: its command line.
        state: what has become of it.
        result: its result.json, and `teacher_seconds` if a teacher was trained first; None unless it ended.
        reason: why it is in this state, in one line; None where there is nothing to say.
    """

    directory: Path
    overrides: tuple[str, ...]
    state: RunState = RunState.WAITING
    result: dict[str, Any] | None = None
    reason: str | None = None

    def override(self, key: str) -> str | None:
        """The value of a key on the command line; None where it is not there."""
        return next((value for name, _, value in map(split_override, self.overrides) if name == key), None)

    @property
    def name(self) -> str:
        """Name of its directory."""
        return self.directory.name

    @property
    def seed(self) -> str | None:
        """The override of the seed."""
        return self.override("seed")

    @property
    def recipe(self) -> str:
        """Its experiment, with method and data as given in place of that experiment's; '' for the default."""
        given = {key: self.override(key) for key in KEYS}
        if not (given["experiment"] or given["budget"]):
            return ""
        method, _, data = (given["experiment"] or "ict_digits").rpartition("_")
        return f"{given['method'] or method}_{given['data'] or data}"

    @property
    def metrics(self) -> dict[str, float]:
        """Its metrics that are finite."""
        found = (self.result or {}).get("metrics", {})
        return {name: float(value) for name, value in found.items() if value is not None}

    @property
    def seconds(self) -> float | None:
        """Seconds of training, over all commands that resumed it."""
        return (self.result or {}).get("seconds")

    @property
    def debug(self) -> str | None:
        """The option that shortened a run that has ended, such as `debug=smoke`; None for any other."""
        found = (self.result or {}).get("debug")
        return None if found is None else f"debug={strip_controls(str(found)):.80}"

    @property
    def is_settled(self) -> bool:
        """Whether another attempt would end in the same state."""
        return self.state in (RunState.FINISHED, RunState.DIVERGED, RunState.PRUNED)


def split_override(override: str) -> tuple[str, str, str]:
    """Key, = and value."""
    return override.partition("=")


def is_sweep(directory: Path) -> bool:
    """Whether a directory is that of a sweep."""
    return bool(directories(directory))


def directories(directory: Path) -> list[Path]:
    """The directories of the runs of a sweep."""
    return [path.parent for path in directory.glob(f"*/{OVERRIDES}") if path.is_file()]


def runs_of(directory: Path) -> list[Run]:
    """All runs of a sweep, in the order of their numbers.

    Raises:
        UserError: the directory is not that of a sweep, or a file in it is damaged.
    """
    found = sorted(directories(directory), key=order)
    if not found:
        raise UserError(f"{directory} holds no sweep: give a directory whose runs have an {OVERRIDES}")
    return [run_in(each) for each in found]


def order(directory: Path) -> tuple[bool, int, str]:
    """Sort key of directories: numbers in ascending order, then names."""
    name = directory.name
    number = name.isascii() and name.isdecimal() and len(name) < 10
    return (not number, int(name) if number else 0, name)


def run_in(directory: Path) -> Run:
    """The run of a directory, with its state and result.

    Raises:
        UserError: a file of it is damaged.
    """
    run = Run(directory, tuple(read_overrides(directory / OVERRIDES)))
    if is_at_work(directory):
        return replace(run, state=RunState.RUNNING)
    result = result_of(directory)
    if result is not None and same_run(result.get("overrides", run.overrides), run.overrides):
        fault = (result.get("verdict") or {}).get("fault")
        return replace(
            run, state=RunState.DIVERGED if fault else RunState.FINISHED, result=result, reason=fault
        )
    if (directory / FAULT).is_file():
        state, reason = read_fault(directory / FAULT)
        return replace(run, state=state, reason=reason)
    there = any((directory / name).is_dir() for name in ("checkpoints", "teacher"))
    return replace(run, state=RunState.STOPPED if there else RunState.WAITING)


def plan_run(directory: Path, overrides: Sequence[str]) -> Run:
    """Write the overrides of a new run to its directory, without `run_dir` and `ckpt_path=last`."""
    path = directory / OVERRIDES
    own = [each for each in overrides if split_override(each)[0] != "run_dir" and each != "ckpt_path=last"]
    if not path.is_file() or read_overrides(path) != own:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(own, ensure_ascii=False) + "\n")
    return run_in(directory)


def keep_fault(directory: Path, state: RunState, reason: str) -> None:
    """Write the state of a run without a result, and the reason, to its directory."""
    text = json.dumps({"state": state, "reason": strip_controls(reason)}, ensure_ascii=False) + "\n"
    write_text(directory / FAULT, text)


def forget_fault(directory: Path) -> None:
    """Remove that file, before a run is tried again."""
    (directory / FAULT).unlink(missing_ok=True)


def read_overrides(path: Path) -> list[str]:
    """The command line of a run."""
    found = read_json(path)
    if not is_command(found):
        raise damaged_run_file(path)
    return found


def is_command(found: Any) -> bool:
    """Whether a value is a list of overrides that Hydra can read."""
    if not (isinstance(found, list) and all(isinstance(each, str) for each in found)):
        return False
    if len(found) > MOST or sum(map(len, found)) > LONGEST:  # which takes minutes to read
        return False
    try:
        override_settings(found)
    except (HydraException, RecursionError, ValueError):
        return False
    return True


def read_fault(path: Path) -> tuple[RunState, str]:
    """State and reason of a run without a result."""
    found = read_json(path)
    try:
        state, reason = RunState(found["state"]), found["reason"]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_run_file(path) from error
    if not isinstance(reason, str) or state not in (RunState.FAILED, RunState.DIVERGED, RunState.PRUNED):
        raise damaged_run_file(path)
    return state, strip_controls(reason)


def result_of(directory: Path) -> dict[str, Any] | None:
    """result.json of a run that has ended, with the seconds of its teacher."""
    if not (directory / RESULT).is_file():
        return None
    found = read_result(directory / RESULT)
    overrides, verdict = found.get("overrides", []), found.get("verdict") or {}
    fault = verdict.get("fault") if isinstance(verdict, dict) else 0
    if not (is_command(overrides) and isinstance(fault, str | None) and is_number(found.get("seconds", 0))):
        raise damaged_run_file(directory / RESULT)
    teacher = directory / "teacher" / RESULT
    taught = read_result(teacher).get("seconds") if teacher.is_file() else None
    return {**found, "teacher_seconds": taught if is_number(taught) else None}


def read_json(path: Path) -> Any:
    """The content of a small JSON file."""
    try:
        if path.stat().st_size > LARGEST:
            raise damaged_run_file(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the directory of a sweep") from error
    except (ValueError, RecursionError) as error:
        raise damaged_run_file(path) from error


def damaged_run_file(path: Path) -> UserError:
    """The error for a damaged file of a run."""
    return UserError(f"{path} is damaged: delete the directory {path.parent}, and the run is made again")


def is_at_work(directory: Path) -> bool:
    """Whether the process of this machine that the lock of a directory names is running."""
    try:
        about = json.loads(regular(directory / LOCK).read_text(encoding="utf-8"))
        if about["host"] != socket.gethostname():
            return False
        os.kill(about["pid"], 0)
        said = time.mktime(time.strptime(about["since"], "%Y-%m-%d %H:%M:%S"))
        return begun(about["pid"]) <= said + 5.0  # or the number has been given to another process since
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return False


def begun(pid: int) -> float:
    """Start time of a process, in seconds since 1970; 0 where the system does not provide it."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(") ")[2].split()[19])
        lines = Path("/proc/stat").read_text("utf-8").splitlines()
        boot = next(line for line in lines if line.startswith("btime"))
        return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return 0.0
