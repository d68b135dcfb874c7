"""What a run that went back, or that goes on from an older checkpoint, writes down before its first step."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from consistency.errors import UserError
from consistency.files.checkpoints import set_aside
from consistency.lit.callbacks.checkpoints import Checkpoints
from consistency.lit.divergence import AbstractGuard, guard_of
from consistency.lit.loggers.base import log, log_text
from consistency.lit.record import Rollback, RollbackRecord
from consistency.metrics.processes import from_first
from consistency.process.notices import notice
from consistency.teachers.checkpoint import read_checkpoint


class Recovery(Callback):
    """Makes `last.ckpt` the state that training goes on from, with the record of all rollbacks.

    A rollback is written down so before the first step after it: a kill at any later moment finds it there,
    and one at an earlier moment leaves a run that goes wrong again in the same way. Then the log gets a point
    before and after all rollbacks to this step, and their reasons as a text; whoever goes on from here once
    more cuts them off and writes them anew. It comes after all callbacks that keep something in a checkpoint.
    """

    def __init__(self) -> None:
        self.end: UserError | None = None  # why the run ends, once that is written down

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it down.

        Raises:
            UserError: the run must not go back again.
        """
        guard, checkpoints = guard_of(trainer), checkpoints_of(trainer)
        went_back = guard is not None and guard.record.count > guard.record.written
        if checkpoints is not None and went_back:
            self._undo(trainer, checkpoints)
        elif checkpoints is not None and goes_elsewhere(trainer, checkpoints.last):
            self._give_up(trainer, checkpoints)
        if self.end is not None:
            raise self.end
        if guard is not None:
            log_rollbacks(trainer, guard)

    def _undo(self, trainer: Trainer, checkpoints: Checkpoints) -> None:
        if trainer.is_global_zero:
            set_aside(checkpoints.directory, trainer.global_step)
        checkpoints.save_last(trainer)

    def _give_up(self, trainer: Trainer, checkpoints: Checkpoints) -> None:
        """Say if the newest state has gone back since: what begins here is at the rate from before."""
        guard = guard_of(trainer)
        if guard is not None and trainer.is_global_zero:
            more = count_rollbacks(checkpoints.last) - guard.record.count
            if more > 0:
                notice(f"{trainer.ckpt_path} is from before {more} of the rollbacks: they no longer count")
        checkpoints.save_last(trainer)


def count_rollbacks(path: Path) -> int:
    """How many rollbacks a checkpoint knows of; none if it is damaged."""
    try:
        return RollbackRecord.of(read_checkpoint(path)).count
    except UserError:
        return 0


def goes_elsewhere(trainer: Trainer, last: Path) -> bool:
    """Whether a run goes on from a checkpoint beside `last`, which is of steps that are given up then."""
    path = Path(trainer.ckpt_path) if trainer.ckpt_path else last
    beside = path.name != last.name and path.resolve().parent == last.resolve().parent
    return beside and from_first(last.exists)


def log_rollbacks(trainer: Trainer, guard: AbstractGuard) -> None:
    """Log the number of rollbacks at the beginning, and as a step in the curve wherever it has changed."""
    record, k = guard.record, trainer.global_step
    new, before, record.logged = record.unlogged(), record.logged, record.count
    for step, count in points(before, record.count, k):
        log(trainer, {"guard/rollbacks": count, "guard/factor": guard.slower**count}, step)
    if new:
        log_text(trainer, "guard/reason", rollback_list(new))


def points(before: int | None, now: int, step: int) -> list[tuple[int, int]]:
    """Steps and numbers of rollbacks for the log.

    Args:
        before: rollbacks in the log; None where it is empty.
        now: rollbacks of the run.
        step: k, from which it goes on.
    """
    if before is None and now == 0:
        return [(step, 0)]
    return [] if before == now else [(max(step - 1, 0), before or 0), (step, now)]


def rollback_list(rollbacks: list[Rollback]) -> str:
    """Reasons, one a line, as Markdown."""
    return "\n".join(f"- {rollback}" for rollback in rollbacks)


def checkpoints_of(trainer: Trainer) -> Checkpoints | None:
    """What writes the checkpoints of a run, if anything does."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Checkpoints)), None)
