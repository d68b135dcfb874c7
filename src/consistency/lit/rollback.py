"""What follows a divergence: back to the newest good state with a lower learning rate, or the end."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Trainer

from consistency.errors import Spoiled, UserError, printable
from consistency.lit.callbacks.curves import keep_log, rewind
from consistency.lit.callbacks.recovery import Recovery, checkpoints_of
from consistency.lit.divergence import AbstractGuard, Collapsed, Diverged, guard_of
from consistency.lit.module import Module
from consistency.lit.record import Rollback, RollbackRecord
from consistency.lit.states import RestartState, state_before
from consistency.metrics.processes import from_first


@dataclass(frozen=True)
class Return:
    """A run that goes back.

    Args:
        state: where to.
        record: of all rollbacks, this one included.
        best: value of best.ckpt, which stays where it is; None where there is none.
        end: what to raise in place of training on; None where it may.
    """

    state: RestartState
    record: RollbackRecord
    best: float | None
    end: UserError | None


def rollbacks(trainer: Trainer) -> dict[str, Any]:
    """How often a run has gone back, and what is known of each time, for result.json."""
    guard = guard_of(trainer)
    record = guard.record if guard else RollbackRecord()
    return {"rollbacks": record.count, "rollback_events": record.to_plain()}


def go_back(fault: Diverged, trainer: Trainer, module: Module, directory: Path, given: Path | None) -> Return:
    """Leave a run that has diverged, and say so.

    Args:
        fault: what happened.
        trainer: of that run.
        module: of that run.
        directory: of that run.
        given: the checkpoint of another directory that it began with; None where it has none.

    Raises:
        UserError: there is nothing to go back to.
    """
    guard, checkpoints = guard_of(trainer), checkpoints_of(trainer)
    assert guard is not None  # nobody else raises Diverged
    state = from_first(lambda: state_before(fault, directory, guard.passed, given))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        callback.teardown(trainer, module, "fit")  # which Lightning leaves out after an exception
    name = printable(state.path.name) if state.path else None
    rollback = Rollback(fault.step, fault.reason, fault.low, fault.high, name, state.step)
    tried = f"after {guard.record.count} rollbacks and with optimizer.lr={module.given[0]['lr']:g} times"
    end = Spoiled(f"{fault}, {tried} {guard.factor:g}: {remedy_for_divergence(state, guard)}")
    end.__cause__ = fault
    guard.record.add(rollback, guard.rollbacks)
    if not guard.record.ended and trainer.is_global_zero:
        print(news(fault, guard, state), file=sys.stderr, flush=True)
    best = checkpoints.best if checkpoints else None
    return Return(state, guard.record, best, end if guard.record.ended else None)


def go_on(trainer: Trainer, back: Return) -> None:
    """Hand over what the next run must know; where nothing may follow, it only writes it down."""
    guard, checkpoints = guard_of(trainer), checkpoints_of(trainer)
    assert guard is not None
    guard.record.take(back.record)
    if checkpoints is not None:
        checkpoints.best = back.best
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Recovery):
            callback.end = back.end
    if back.end is None:
        rewind(trainer, back.state.log, back.state.step)
    else:
        keep_log(trainer, back.state.log)


def check_allowed(checkpoint: Mapping[str, Any], allowed: int | None, directory: Path) -> None:
    """Refuse to go on with a run that has gone wrong once more than it may have.

    Args:
        checkpoint: to go on from.
        allowed: rollbacks; None without a guard.
        directory: of the run.

    Raises:
        Spoiled: it has, and no more are allowed now.
    """
    record = RollbackRecord.of(checkpoint)
    if allowed is None or not record.ended or record.count <= allowed:
        return
    raise Spoiled(
        f"callbacks.guard.rollbacks={allowed}: the run in {directory} has gone back {record.count - 1} "
        f"times, and then went wrong again ({record.listed[-1].fault}): begin anew in another run_dir with a "
        f"lower optimizer.lr, or allow more, such as callbacks.guard.rollbacks={record.count + 1}"
    )


def rollback_line(checkpoint: Mapping[str, Any] | None) -> str | None:
    """A line for a run that goes on and has gone back before; None for any other."""
    record = RollbackRecord.of(checkpoint) if checkpoint else RollbackRecord()
    if not record.count:
        return None
    last = f", the last time after this: {record.listed[-1].fault}" if record.listed else ""
    times = "once" if record.count == 1 else f"{record.count} times"
    return f"this run has gone back {times}, and its learning rate is lower since{last}"


def news(fault: Diverged, guard: AbstractGuard, state: RestartState) -> str:
    """What happened, and what is done about it."""
    which = f"rollback {guard.record.count} of {guard.rollbacks}"
    return f"{fault}: back to {found(fault, state)}, learning rate times {guard.factor:g} ({which})"


def found(fault: Diverged, state: RestartState) -> str:
    """Where a run goes back to, and why there after a collapse."""
    if not isinstance(fault, Collapsed):
        return state.name
    none, newest = "no state on disk has passed a validation", "the newest that has passed a validation"
    return f"{state.name} ({newest if state.step else none})"


def remedy_for_divergence(state: RestartState, guard: AbstractGuard) -> str:
    """What the user can do when a run has gone wrong once more than it may."""
    more = f"callbacks.guard.rollbacks={guard.record.count + 2}"
    return (
        "begin anew with a lower one, look at the data and at the weight of these σ, or go on with "
        f"ckpt_path=last {more}; last.ckpt is of step {state.step}, from before"
    )
