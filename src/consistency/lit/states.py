"""The states on disk that a run can go back to."""

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
    """Where training can go on from.

    Args:
        path: a checkpoint; None for the beginning.
        step: k, of the optimiser.
        log: how far the logs were when it was written; None where an older version has not noted them.
    """

    path: Path | None
    step: int
    log: Positions | None

    @property
    def name(self) -> str:
        """Where it is, for messages."""
        return f"step {self.step} in {self.path}" if self.path and self.step else "the beginning"


BEGINNING = RestartState(None, 0, {})


def state_before(fault: Diverged, directory: Path, passed: int | None, given: Path | None) -> RestartState:
    """The newest state on disk from before a run went wrong.

    After a collapse, the newest one with a step at or before that of the last validation whose samples were
    judged good: it led there. What was saved later may have collapsed already. After a loss or gradient that
    is wrong, the newest state, unless it may be within a spike: a validation that fails ends the run before
    anything else is saved, so the newest state has passed all there were.

    Args:
        fault: what happened.
        directory: of the run.
        passed: step of the last validation that the samples passed; None for none.
        given: the checkpoint of another directory that this run began with; None where it has none.

    Raises:
        UserError: the checkpoint that the run began with has collapsed itself.
    """
    collapsed = isinstance(fault, Collapsed)
    path = newest_passed(directory / LAST.parent, passed) if collapsed else newest_calm(directory)
    path = path or given
    if path is None:
        return BEGINNING
    kept = read_checkpoint(path)
    if collapsed and kept["global_step"] == fault.step:
        raise UserError(f"ckpt_path={path} cannot be gone on with: {fault}; use an older checkpoint")
    return RestartState(path, kept["global_step"], kept.get(LOG))


def newest_calm(directory: Path) -> Path | None:
    """The newest whole checkpoint that was not saved within a spike, as a run is that was stopped there.

    The newest of all where none is calm; None where there is none at all.
    """
    newest = newest_whole(directory)
    if newest is None or is_calm(newest):
        return newest
    return next(filter(is_calm, whole_ones(newest.parent)), newest)


def is_calm(path: Path) -> bool:
    """Whether no loss was too high in the last step before a checkpoint."""
    streak = read_checkpoint(path)["callbacks"].get("Guard", {}).get("spikes", {}).get("streak")
    return not (isinstance(streak, Tensor) and streak.any())


def newest_passed(folder: Path, passed: int | None) -> Path | None:
    """The newest whole checkpoint with a step of at most `passed`; None where there is none."""
    return None if passed is None else next(whole_ones(folder, most=passed), None)
