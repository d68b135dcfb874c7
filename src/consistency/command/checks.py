"""Checks of a composed command before any large library is imported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from consistency.command.newest import LAST, check_not_last
from consistency.command.paths import expand_homes
from consistency.errors import UserError
from consistency.files.paths import absent_path
from consistency.process.naming import started_by_lightning
from consistency.schema.check import check_options
from consistency.sweep.single import check_free, check_single


def check_command(config: DictConfig, entry: str) -> None:
    """Refuse a command that cannot run, as far as that is known without large libraries; expand `~` in paths.

    Args:
        config: as composed; changed in place.
        entry: name of the file in configs/ that it was composed from.

    Raises:
        UserError: names the key and the remedy.
    """
    expand_homes(config)
    check_options(config, entry)
    if entry == "eval":
        check_not_last(config.ckpt_path)
    else:
        check_root(config)
    for key, path in named_paths(config, entry):
        if not Path(path).exists():
            raise absent_path(key, path)
        if key in ("ckpt_path", "teacher.path") and entry == "train":
            check_single(path, key)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN and not started_by_lightning():
        check_run_place(Path(HydraConfig.get().runtime.output_dir), config.ckpt_path, entry)


def check_root(config: DictConfig) -> None:
    """Refuse to train on a folder of images without data.root.

    Raises:
        UserError: no folder is given.
    """
    if reads_images(config) and OmegaConf.is_missing(config.data, "root"):
        raise UserError(
            "data.root has no value: give a folder or a zip archive of images with data.root=FOLDER"
        )


def check_run_place(directory: Path, ckpt_path: str | None, entry: str) -> None:
    """Refuse a directory that holds another run, which its last checkpoint shows."""
    check_free(directory)
    if entry == "eval":
        check_no_training(directory)
    elif ckpt_path is None and (directory / "checkpoints" / "last.ckpt").is_file():
        raise holds_a_run(directory)


def holds_a_run(directory: Path) -> UserError:
    """The error for a new run in a directory that holds one."""
    return UserError(f"run_dir={directory} holds a run already: go on with ckpt_path=last, or choose another")


def check_no_training(directory: Path) -> None:
    """Refuse to evaluate in the directory of a training run.

    Raises:
        UserError: it is one.
    """
    if (directory / "checkpoints").is_dir():
        raise UserError(f"run_dir={directory} holds a training run, whose result.json stays: choose another")


def named_paths(config: DictConfig, entry: str) -> Iterator[tuple[str, str]]:
    """The files and folders that a command reads, with their keys."""
    keys = read_by_training(config) if entry == "train" else ("input", "mask", "task.results")
    for key in ("ckpt_path", *keys):
        value = selected(config, key)
        for path in value if OmegaConf.is_list(value) else [value]:
            if isinstance(path, str) and not (key == "ckpt_path" and path == LAST):
                yield key, path


def read_by_training(config: DictConfig) -> Iterator[str]:
    """Yield the keys of paths that a training run reads, which depend on its parts."""
    if any(selected(config, f"module.{role}") is not None for role in ("teacher", "start")):
        yield "teacher.path"
    if reads_images(config):
        yield "data.root"


def reads_images(config: DictConfig) -> bool:
    """Whether the data are images of a folder or an archive."""
    return str(selected(config, "data._target_")).endswith(".ImageFolder")


def selected(config: DictConfig, key: str) -> Any:
    """The value of a key; None where it is missing or its reference is wrong, which later checks report."""
    try:
        return OmegaConf.select(config, key)
    except Exception:  # any error of an interpolation
        return None
