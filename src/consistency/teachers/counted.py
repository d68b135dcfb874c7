"""Checks of the states of callbacks in a checkpoint: types and ranges."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from consistency.teachers.values import (
    MalformedError,
    brief_value,
    check_count,
    check_number,
    check_plain,
    check_text,
    expect,
    is_finite_number,
)

MOST = 100_000  # segments
MOST_ROLLBACKS = 1001  # the largest number that may be allowed, and the one that ends the run
ROLLBACK = {"step", "reason", "low", "high", "checkpoint", "back_to"}


def check_callbacks(callbacks: Mapping[str, Any]) -> None:
    """Check the states of all callbacks.

    Raises:
        MalformedError: names the first value of another type or range.
    """
    for name in callbacks:
        expect(f"the name {name!r:.40} in callbacks", name, str)
        expect(f"callbacks.{name}", callbacks[name], dict)
    _best(callbacks.get("Checkpoints", {}))
    _guard(callbacks.get("Guard", {}))
    if "History" in callbacks:
        _history(callbacks["History"])


def absent_average(content: Mapping[str, Any], f: nn.Module) -> str | None:
    """The first parameter of a map that an average lacks, in words; None where all are of all parameters.

    Args:
        content: of a checkpoint; exported weights hold one average alone, which is complete.
        f: the map.
    """
    if "exported" in content:
        return None
    for name, average in content["callbacks"].get("EMA", {"averages": {}})["averages"].items():
        lacks = [parameter for parameter, _ in f.named_parameters() if parameter not in average]
        if lacks:
            return f"averages.{name} lacks {lacks[0]}"
    return None


def _best(state: Mapping[str, Any]) -> None:
    """Check the value of best.ckpt: a number or None; older versions may have kept one that is not finite."""
    best = state.get("best")
    if best is not None and type(best) is not float:
        check_number("callbacks.Checkpoints.best", best)
    if state.get("validated") is not None:
        check_count("callbacks.Checkpoints.validated", state["validated"])


def _guard(state: Mapping[str, Any]) -> None:
    """Check the number and the list of rollbacks."""
    rollbacks, events = state.get("rollbacks", 0), state.get("events", [])
    for name, value in {"rollbacks": rollbacks, "logged": state.get("logged", 0)}.items():
        check_count(f"callbacks.Guard.{name}", value)
        if value > MOST_ROLLBACKS:
            raise MalformedError(f"is malformed: callbacks.Guard.{name}={value} is above {MOST_ROLLBACKS}")
    if state.get("passed") is not None:
        check_count("callbacks.Guard.passed", state["passed"])
    expect("callbacks.Guard.ended", state.get("ended", False), bool)
    expect("callbacks.Guard.events", events, list)
    if len(events) > rollbacks:
        raise MalformedError("is malformed: callbacks.Guard has more events than rollbacks")
    if state.get("ended") and not events:
        raise MalformedError("is malformed: callbacks.Guard has ended without an event")
    for i, event in enumerate(events):
        name = f"callbacks.Guard.events.{i}"
        expect(name, event, dict)
        _rollback(name, event)


def _rollback(name: str, event: Mapping[str, Any]) -> None:
    if event.keys() != ROLLBACK:
        raise MalformedError(f"is malformed: {name} must have {', '.join(sorted(ROLLBACK))}, and no more")
    for key in ("step", "back_to"):
        check_count(f"{name}.{key}", event[key])
    for key in ("low", "high"):
        expect(f"{name}.{key}", event[key], int | float)
        check_number(f"{name}.{key}", event[key])
    check_text(f"{name}.reason", event["reason"])
    if event["checkpoint"] is not None:
        check_text(f"{name}.checkpoint", event["checkpoint"])


def _history(state: Mapping[str, Any]) -> None:
    segments: Any = state.get("segments")
    expect("callbacks.History.segments", segments, list)
    if len(segments) > MOST:
        raise MalformedError(f"is malformed: callbacks.History has more than {MOST:,} segments")
    for i, segment in enumerate(segments):
        name = f"callbacks.History.segments.{i}"
        expect(name, segment, dict)
        _segment(name, segment)


def _segment(name: str, segment: Mapping[str, Any]) -> None:
    for key in segment:
        check_text(f"a key of {name}", key)
    _steps(f"{name}.steps", segment.get("steps"))
    check_number(f"{name}.seconds", segment.get("seconds"))
    if segment["seconds"] < 0:
        raise MalformedError(f"is malformed: {name}.seconds={brief_value(segment['seconds'])} is less than 0")
    size = segment.get("batch_size")
    if size is not None:
        check_count(f"{name}.batch_size", size)
    if size == 0:
        raise MalformedError(f"is malformed: {name}.batch_size=0 is less than 1")
    if segment.get("lr") is not None:
        check_number(f"{name}.lr", segment["lr"])
    expect(f"{name}.changed", segment.get("changed", {}), dict)
    check_plain(f"{name}.changed", segment.get("changed"))
    for key in segment.keys() - {"steps", "seconds", "batch_size", "lr", "changed"}:
        _fact(f"{name}.{key}", segment[key])


def _steps(name: str, steps: Any) -> None:
    """Check a pair of steps in ascending order."""
    expect(name, steps, list | tuple)
    for step in steps:
        check_count(name, step)
    if len(steps) != 2 or steps[0] > steps[1]:
        raise MalformedError(f"is malformed: {name} must be two steps in order")


def _fact(name: str, value: Any) -> None:
    """Check a field that is only displayed: text, a number, a boolean or None."""
    if isinstance(value, str):
        check_text(name, value)
    elif not (value is None or isinstance(value, bool) or is_finite_number(value)):
        raise MalformedError(f"is malformed: {name} is of type {type(value).__name__}, or not finite")
