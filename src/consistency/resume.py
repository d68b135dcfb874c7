"""The checkpoint that a run resumes from: finding it, and checking that the run may resume from it."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from consistency.build import experiment_name
from consistency.command.checks import holds_a_run
from consistency.continuation import Continuation, checkpoint_override, compare_with_checkpoint, override_keys
from consistency.continuation.again import command_of
from consistency.continuation.differences import START
from consistency.files.checkpoints import LAST, newest
from consistency.lit.callbacks.history import Clock, segments_of, total_seconds
from consistency.lit.data.identity import Identity, check_identity
from consistency.lit.loggers.base import LOG, Positions
from consistency.lit.module import Module
from consistency.lit.rollback import check_allowed, rollback_line
from consistency.sweep.single import check_single
from consistency.teach import print_once
from consistency.teachers.checkpoint import check_fits, of_run, read_checkpoint, whole_of


class Checkpoint(NamedTuple):
    """A checkpoint that was read and verified.

    Args:
        path: of the file.
        content: of the file, weights included.
    """

    path: Path
    content: dict[str, Any]


def find_checkpoint(ckpt_path: str | None, directory: Path) -> Checkpoint | None:
    """The checkpoint to resume from; None for a new run.

    Args:
        ckpt_path: of the config: a file, a run directory, or `last` for the newest checkpoint of `directory`.
        directory: of this run.

    Raises:
        UserError: the directory holds a run, and ckpt_path does not name it; or the checkpoint is damaged.
    """
    found = newest(directory)
    if ckpt_path == "last":
        whole = whole_of(directory, "ckpt_path")
        print_once(
            f"resuming from {whole[0]}" if whole else f"no checkpoint in {directory} yet: starting afresh"
        )
        return Checkpoint(*whole) if whole else None
    path = Path(ckpt_path) if ckpt_path else None
    if found is not None and (path is None or checkpoint_folder(path) != found.resolve().parent):
        raise holds_a_run(directory)
    if path is None:
        return None
    check_single(path, "ckpt_path")
    if path.is_dir():
        return Checkpoint(*of_run(path, "ckpt_path"))
    return Checkpoint(path, read_checkpoint(path))


def checkpoint_folder(path: Path) -> Path:
    """The folder of checkpoints that a path leads to: the path of a checkpoint, or of a run directory."""
    return (path / LAST.parent if path.is_dir() else path.parent).resolve()


def compare(config: DictConfig, checkpoint: Checkpoint | None, directory: Path) -> Continuation:
    """The differences between this run and that of the checkpoint.

    Raises:
        UserError: a value differs that makes it another run.
    """
    if checkpoint is None:
        return Continuation()
    path, content = checkpoint
    overrides = list(HydraConfig.get().overrides.task)
    command = partial(command_of, checkpoint_folder(path).parent, overrides)
    return compare_with_checkpoint(
        config,
        experiment_name(),
        content,
        checkpoint_override(path, directory),
        override_keys(overrides),
        command,
    )


def check_rollbacks(config: DictConfig, checkpoint: Checkpoint | None, directory: Path) -> str | None:
    """Refuse a run that has no rollback left; a line about its earlier rollbacks, None without any."""
    if checkpoint is None:
        return None
    check_allowed(checkpoint.content, OmegaConf.select(config, "callbacks.guard.rollbacks"), directory)
    return rollback_line(checkpoint.content)


def check_checkpoint(checkpoint: Checkpoint | None, module: Module, data: Identity, where: str) -> None:
    """Refuse weights of another network, and a checkpoint that was trained on other data.

    Args:
        checkpoint: to resume from; None for a new run.
        module: the module of this run.
        data: identity of the data of this run.
        where: the checkpoint, as messages call it.
    """
    if checkpoint is not None:
        check_fits(checkpoint.path, checkpoint.content["state_dict"], module)
        check_identity(checkpoint.content.get("data", {}), data, where)


def clock_of(checkpoint: Checkpoint | None) -> Clock:
    """A clock that counts on from the seconds of the checkpoint."""
    return Clock(total_seconds(segments_of(checkpoint.content)) if checkpoint else 0.0)


def log_positions(checkpoint: Checkpoint | None) -> tuple[Positions | None, int]:
    """The length of each log at the checkpoint, None where an older version has not noted it; its step."""
    if checkpoint is None:
        return {}, 0
    return checkpoint.content.get(LOG), checkpoint.content["global_step"]


def fallback_of(checkpoint: Checkpoint | None, continuation: Continuation, directory: Path) -> Path | None:
    """The checkpoint, if this run has to roll back to it as long as it has saved no state of its own.

    That is so if it lies in another directory, or if it replaced the teacher's weights (`start=teacher`).
    """
    if checkpoint is None:
        return None
    elsewhere = checkpoint.path.resolve().parent != (directory / LAST.parent).resolve()
    return checkpoint.path if elsewhere or any(c.key == START for c in continuation.changes) else None
