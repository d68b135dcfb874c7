"""The checkpoint that a run goes on from: where it is, and whether it may go on from it."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from consistency.build import experiment
from consistency.command.checks import holds_a_run
from consistency.continuation import Continuation, checkpoint_override, compare_with_checkpoint, given_keys
from consistency.continuation.again import command_of
from consistency.continuation.differences import START
from consistency.files.checkpoints import LAST, newest
from consistency.lit.callbacks.history import Clock, segments_of, total_seconds
from consistency.lit.data.identity import Identity, check_identity
from consistency.lit.loggers.base import LOG, Positions
from consistency.lit.module import Module
from consistency.lit.rollback import check_allowed, rollback_line
from consistency.sweep.single import check_single
from consistency.teach import say_once
from consistency.teachers.checkpoint import check_fits, of_run, read_checkpoint, whole_of


class Checkpoint(NamedTuple):
    """A checkpoint that was read and verified.

    Args:
        path: the file.
        content: what it holds, weights included.
    """

    path: Path
    content: dict[str, Any]


def find_checkpoint(ckpt_path: str | None, directory: Path) -> Checkpoint | None:
    """The checkpoint to go on from; None for a run that begins.

    Args:
        ckpt_path: of the config: a file, the directory of a run, or `last` for the newest of `directory`.
        directory: of the run.

    Raises:
        UserError: the directory holds a run that was not named, or the checkpoint cannot be used.
    """
    found = newest(directory)
    if ckpt_path == "last":
        whole = whole_of(directory, "ckpt_path")
        say_once(
            f"resuming from {whole[0]}" if whole else f"no checkpoint in {directory} yet: starting afresh"
        )
        return Checkpoint(*whole) if whole else None
    given = Path(ckpt_path) if ckpt_path else None
    if found is not None and (given is None or folder_of(given) != found.resolve().parent):
        raise holds_a_run(directory)
    if given is None:
        return None
    check_single(given, "ckpt_path")
    if given.is_dir():
        return Checkpoint(*of_run(given, "ckpt_path"))
    return Checkpoint(given, read_checkpoint(given))


def folder_of(given: Path) -> Path:
    """The folder of a checkpoint that is named by its file, or by the directory of its run."""
    return (given / LAST.parent if given.is_dir() else given.parent).resolve()


def compare(config: DictConfig, checkpoint: Checkpoint | None, directory: Path) -> Continuation:
    """How this run differs from that of the checkpoint; refuses what would be another run."""
    if checkpoint is None:
        return Continuation()
    path, content = checkpoint
    overrides = list(HydraConfig.get().overrides.task)
    command = partial(command_of, folder_of(path).parent, overrides)
    return compare_with_checkpoint(
        config, experiment(), content, checkpoint_override(path, directory), given_keys(overrides), command
    )


def check_rollbacks(config: DictConfig, checkpoint: Checkpoint | None, directory: Path) -> str | None:
    """Refuse a run that has diverged too often; a line for one that has gone back before."""
    if checkpoint is None:
        return None
    check_allowed(checkpoint.content, OmegaConf.select(config, "callbacks.guard.rollbacks"), directory)
    return rollback_line(checkpoint.content)


def check_checkpoint(checkpoint: Checkpoint | None, module: Module, data: Identity, where: str) -> None:
    """Refuse weights of another network, and a checkpoint that was trained on other data.

    Args:
        checkpoint: to go on from, if any.
        module: that is to be trained.
        data: that it is to be trained on.
        where: the checkpoint is, for messages.
    """
    if checkpoint is not None:
        check_fits(checkpoint.path, checkpoint.content["state_dict"], module)
        check_identity(checkpoint.content.get("data", {}), data, where)


def clock_of(checkpoint: Checkpoint | None) -> Clock:
    """A clock that counts on from the seconds of the checkpoint."""
    return Clock(total_seconds(segments_of(checkpoint.content)) if checkpoint else 0.0)


def log_positions(checkpoint: Checkpoint | None) -> tuple[Positions | None, int]:
    """How far each log was at the checkpoint, None where an old one does not say; and its step."""
    if checkpoint is None:
        return {}, 0
    return checkpoint.content.get(LOG), checkpoint.content["global_step"]


def fallback_of(checkpoint: Checkpoint | None, continuation: Continuation, directory: Path) -> Path | None:
    """A checkpoint that is no state of this run itself: what to go back to before it has saved one.

    It lies in another directory, or was given in place of the teacher's weights that the run began with.
    """
    if checkpoint is None:
        return None
    elsewhere = checkpoint.path.resolve().parent != (directory / LAST.parent).resolve()
    return checkpoint.path if elsewhere or any(c.key == START for c in continuation.changes) else None
