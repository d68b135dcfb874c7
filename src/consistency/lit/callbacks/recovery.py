"""Writes a rollback, or the choice of an older checkpoint, to disk and to the logs before the next step."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from consistency.errors import UserError
from consistency.files.checkpoints import set_aside
from consistency.lit.callbacks.checkpoints import Checkpoints
from consistency.lit.divergence import AbstractGuard, guard_of
from consistency.lit.loggers.base import log, log_text
from consistency.lit.rollback_record import Rollback, RollbackRecord
from consistency.metrics.processes import from_first
from consistency.process.notices import notice
from consistency.teachers.checkpoint import read_checkpoint


class Recovery(Callback):
    """Replaces `last.ckpt` by the state that training continues from, with the record of all rollbacks.

    A rollback is on disk before the first step after it. After a kill at a later moment the record is found
    there; after one at an earlier moment the run diverges again in the same way. Then the number of rollbacks
    before and after this step is logged, and their reasons as a text; a run that resumes from here again cuts
    these off and logs them anew. This callback must stand after all that add to a checkpoint.
    """

    def __init__(self) -> None:
        self.end: UserError | None = None  # raised, once last.ckpt is written, if the run must end

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write last.ckpt and the logs.

        Raises:
            UserError: no rollback is left.
        """
        guard, checkpoints = guard_of(trainer), checkpoints_of(trainer)
        went_back = guard is not None and guard.record.count > guard.record.written
        if checkpoints is not None and went_back:
            self._save_rollback(trainer, checkpoints)
        elif checkpoints is not None and resumes_from_other(trainer, checkpoints.last):
            self._save_choice(trainer, checkpoints)
        if self.end is not None:
            raise self.end
        if guard is not None:
            log_rollbacks(trainer, guard)

    def _save_rollback(self, trainer: Trainer, checkpoints: Checkpoints) -> None:
        if trainer.is_global_zero:
            set_aside(checkpoints.directory, trainer.global_step)
        checkpoints.save_last(trainer)

    def _save_choice(self, trainer: Trainer, checkpoints: Checkpoints) -> None:
        """Print a notice if last.ckpt has more rollbacks, whose lower learning rate is dropped."""
        guard = guard_of(trainer)
        if guard is not None and trainer.is_global_zero:
            more = count_rollbacks(checkpoints.last) - guard.record.count
            if more > 0:
                notice(f"{trainer.ckpt_path} is from before {more} of the rollbacks: they no longer count")
        checkpoints.save_last(trainer)


def count_rollbacks(path: Path) -> int:
    """Number of rollbacks recorded in a checkpoint; 0 if the file is damaged."""
    try:
        return RollbackRecord.of(read_checkpoint(path)).count
    except UserError:
        return 0


def resumes_from_other(trainer: Trainer, last: Path) -> bool:
    """Whether a run resumes from another checkpoint in the folder of `last`; later steps are dropped."""
    path = Path(trainer.ckpt_path) if trainer.ckpt_path else last
    beside = path.name != last.name and path.resolve().parent == last.resolve().parent
    return beside and from_first(last.exists)


def log_rollbacks(trainer: Trainer, guard: AbstractGuard) -> None:
    """Log the number of rollbacks at the start of a run, and whenever it has changed."""
    record, k = guard.record, trainer.global_step
    new, before, record.logged = record.unlogged(), record.logged, record.count
    for step, count in rollback_points(before, record.count, k):
        log(trainer, {"guard/rollbacks": count, "guard/factor": guard.slower**count}, step)
    if new:
        log_text(trainer, "guard/reason", rollback_list(new))


def rollback_points(before: int | None, now: int, step: int) -> list[tuple[int, int]]:
    """Points of the curve of rollbacks to log: pairs of a step and a number of rollbacks.

    Args:
        before: number of rollbacks in the log; None where the log is empty.
        now: number of rollbacks of the run.
        step: k, at which training continues.
    """
    if before is None and now == 0:
        return [(step, 0)]
    return [] if before == now else [(max(step - 1, 0), before or 0), (step, now)]


def rollback_list(rollbacks: list[Rollback]) -> str:
    """Rollbacks as a list in Markdown."""
    return "\n".join(f"- {rollback}" for rollback in rollbacks)


def checkpoints_of(trainer: Trainer) -> Checkpoints | None:
    """The callback that writes the checkpoints of a run, if it has one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Checkpoints)), None)
