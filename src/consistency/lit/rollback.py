"""Rollbacks: after a divergence a run returns to its newest good state with a lower learning rate."""

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
from consistency.lit.rollback_record import Rollback, RollbackRecord
from consistency.lit.states import RestartState, state_before
from consistency.metrics.processes import from_first


@dataclass(frozen=True)
class RollbackPlan:
    """What the next trainer of a run needs after a divergence.

    Args:
        state: the state to return to.
        record: of all rollbacks, this one included.
        best: value of best.ckpt, which is not rolled back; None where there is none.
        end: error to raise instead of training on; None where training may continue.
    """

    state: RestartState
    record: RollbackRecord
    best: float | None
    end: UserError | None


def rollbacks(trainer: Trainer) -> dict[str, Any]:
    """Number and list of a run's rollbacks, for result.json."""
    guard = guard_of(trainer)
    record = guard.record if guard else RollbackRecord()
    return {"rollbacks": record.count, "rollback_events": record.to_plain()}


def go_back(
    fault: Diverged, trainer: Trainer, module: Module, directory: Path, fallback: Path | None
) -> RollbackPlan:
    """Shut down the trainer of a run that has diverged, and print where the run returns to.

    Args:
        fault: the divergence.
        trainer: of the run.
        module: of the run.
        directory: of the run.
        fallback: state to return to while the run has saved none; None for the beginning.

    Raises:
        UserError: the checkpoint that the run started from has collapsed itself.
    """
    guard, checkpoints = guard_of(trainer), checkpoints_of(trainer)
    assert guard is not None  # nobody else raises Diverged
    state = from_first(lambda: state_before(fault, directory, guard.passed, fallback))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        callback.teardown(trainer, module, "fit")  # Lightning does not call it after an exception
    name = printable(state.path.name) if state.path else None
    rollback = Rollback(fault.step, fault.reason, fault.low, fault.high, name, state.step)
    tried = (
        f"after {guard.record.count} rollbacks and with optimizer.lr={module.group_options[0]['lr']:g} times"
    )
    end = Spoiled(f"{fault}, {tried} {guard.factor:g}: {remedy_for_divergence(state, guard)}")
    end.__cause__ = fault
    guard.record.add(rollback, guard.rollbacks)
    if not guard.record.ended and trainer.is_global_zero:
        which = f"rollback {guard.record.count} of {guard.rollbacks}"
        line = f"{fault}: back to {describe_state(fault, state)}, learning rate times {guard.factor:g}"
        print(f"{line} ({which})", file=sys.stderr, flush=True)
    best = checkpoints.best if checkpoints else None
    return RollbackPlan(state, guard.record, best, end if guard.record.ended else None)


def hand_over(trainer: Trainer, back: RollbackPlan) -> None:
    """Give the callbacks of a new trainer the state of a rollback; `Recovery` ends the run if it must end."""
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
    """Refuse to resume a run that has ended with a divergence after its last rollback.

    Args:
        checkpoint: to resume from.
        allowed: number of rollbacks now allowed; None for a run without a guard, which is not refused.
        directory: of the run.

    Raises:
        Spoiled: the run has ended so, and no more rollbacks are allowed now.
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
    """A line about the rollbacks of a run that is resumed; None where there are none."""
    record = RollbackRecord.of(checkpoint) if checkpoint else RollbackRecord()
    if not record.count:
        return None
    last = f", the last time after this: {record.listed[-1].fault}" if record.listed else ""
    times = "once" if record.count == 1 else f"{record.count} times"
    return f"this run has gone back {times}, and its learning rate is lower since{last}"


def describe_state(fault: Diverged, state: RestartState) -> str:
    """The state that a run returns to, with the reason for its choice after a collapse."""
    if not isinstance(fault, Collapsed):
        return state.name
    none, newest = "no state on disk has passed a validation", "the newest that has passed a validation"
    return f"{state.name} ({newest if state.step else none})"


def remedy_for_divergence(state: RestartState, guard: AbstractGuard) -> str:
    """What the user can do when no rollback is left."""
    more = f"callbacks.guard.rollbacks={guard.record.count + 2}"
    return (
        "begin anew with a lower one, look at the data and at the weight of these σ, or go on with "
        f"ckpt_path=last {more}; last.ckpt is of step {state.step}, from before"
    )
