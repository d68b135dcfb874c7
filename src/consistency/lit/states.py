"""The states on disk that a run can be rolled back to."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from consistency.errors import UserError
from consistency.files.checkpoints import LAST
from consistency.lit.divergence import Collapsed, Diverged
from consistency.lit.loggers.base import LOG, Positions
from consistency.teachers.checkpoint import newest_whole, read_checkpoint, whole_ones


@dataclass(frozen=True)
class RestartState:
    """A state from which training can continue.

    Args:
        path: of a checkpoint; None for the beginning.
        step: k, of the optimiser.
        log: lengths of the logs at the checkpoint; None where an older version has not noted them.
    """

    path: Path | None
    step: int
    log: Positions | None

    @property
    def name(self) -> str:
        """The state as messages call it."""
        return f"step {self.step} in {self.path}" if self.path and self.step else "the beginning"


BEGINNING = RestartState(None, 0, {})


def state_before(fault: Diverged, directory: Path, passed: int | None, fallback: Path | None) -> RestartState:
    """The newest state on disk from before a divergence.

    After a collapse: the newest state whose step is at most that of the last validation that was passed, for
    later ones may have collapsed already. After a loss or gradient at fault: the newest state that was not
    saved within a spike. It has passed all validations, because a failed one ends training before anything
    else is saved.

    Args:
        fault: the divergence.
        directory: of the run.
        passed: step of the last validation whose samples passed; None for none.
        fallback: the checkpoint to return to where the run has saved none; None for the beginning.
    """
    collapsed = isinstance(fault, Collapsed)
    path = newest_passed(directory / LAST.parent, passed) if collapsed else newest_calm(directory)
    path = path or fallback
    if path is None:
        return BEGINNING
    kept = read_checkpoint(path)
    if collapsed and kept["global_step"] == fault.step:
        raise UserError(f"ckpt_path={path} cannot be gone on with: {fault}; use an older checkpoint")
    return RestartState(path, kept["global_step"], kept.get(LOG))


def newest_calm(directory: Path) -> Path | None:
    """The newest whole checkpoint that was not saved within a spike, as it may be after a stop by signal.

    The newest of all where every one was saved within a spike; None where there is none.
    """
    newest = newest_whole(directory)
    if newest is None or is_calm(newest):
        return newest
    return next(filter(is_calm, whole_ones(newest.parent)), newest)


def is_calm(path: Path) -> bool:
    """Whether no loss was too high in the last step before a checkpoint was written."""
    streak = read_checkpoint(path)["callbacks"].get("Guard", {}).get("spikes", {}).get("streak")
    return not (isinstance(streak, Tensor) and streak.any())


def newest_passed(folder: Path, passed: int | None) -> Path | None:
    """The newest whole checkpoint with a step of at most `passed`; None where there is none."""
    return None if passed is None else next(whole_ones(folder, most=passed), None)
