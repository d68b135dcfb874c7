"""Checkpoints of this project, read as what they are: tensors and plain data, never code."""

import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.model.denoiser import Denoiser
from consistency.teachers.exported import SUFFIX, read_exported
from consistency.teachers.trust import check_trusted


def checkpoint(path: str | Path | None, weights: str | None = None) -> Denoiser:
    """The denoiser of a run.

    Args:
        path: a checkpoint, a file of exported weights, or the directory of a run, whose newest is taken.
        weights: an average by name, `raw`, or None for the one that validation saw.

    Raises:
        UserError: there is none, or it is damaged, or would call something foreign.
    """
    from hydra.utils import instantiate

    if path is None:
        raise UserError("teacher.path is not given: train a teacher, and name its run directory")
    found = newest(path) if Path(path).is_dir() else Path(path)
    kept = read_trained(found or Path(path) / "checkpoints" / "last.ckpt", "teacher.path")
    config = OmegaConf.create({"denoiser": kept["config"]["denoiser"]})
    check_trusted("teacher.path", path, config)
    D: Denoiser = instantiate(config.denoiser, _convert_="all")
    D.load_state_dict(weights_of(kept, weights)[1])
    return D.requires_grad_(False).eval()


def read_trained(path: str | Path, key: str = "ckpt_path") -> dict[str, Any]:
    """What a run has learned, by its checkpoint or by exported weights, which no run can go on from.

    Arguments and errors are those of `read_checkpoint`.
    """
    path = Path(path)
    exported = path.suffix == SUFFIX and path.is_file()
    return read_exported(path, key) if exported else read_checkpoint(path, key)


def read_checkpoint(path: str | Path, key: str = "ckpt_path") -> dict[str, Any]:
    """The content of a checkpoint of ours. A file is untrusted input: tensors and plain containers only.

    Args:
        path: the file.
        key: of the config that names it, for messages.

    Raises:
        UserError: the file is missing, cut short, holds code, or is not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{key}={path}: no such file; give a .ckpt of a run, exported .safetensors, or 'last'"
        )
    if path.suffix == SUFFIX:
        raise UserError(
            f"{key}={path} holds weights alone, and no run can go on from them; to begin with them: "
            f"start=teacher teacher.path={path}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wonders at what it is about to refuse
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{key}={path} is damaged or cut short and was not loaded; use an older checkpoint of the run"
        ) from error
    except Exception as error:  # UnpicklingError, or whatever torch's reader makes of a file of another kind
        raise UserError(
            f"{key}={path} holds something other than tensors and plain data, or is damaged, and was not "
            "loaded; use a checkpoint written by this project"
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "config", "callbacks"} <= checkpoint.keys():
        raise UserError(f"{key}={path} is not a checkpoint of this project: it lacks state_dict and config")
    return checkpoint


def check_fits(path: str | Path, state: dict[str, Tensor], module: nn.Module) -> None:
    """Refuse weights of another network, naming the first tensor that differs."""
    expected = module.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        theirs, ours = (tuple(d[name].shape) if name in d else "absent" for d in (state, expected))
        if theirs != ours:
            raise UserError(
                f"ckpt_path={path} is of another network: {name} is {theirs} there and {ours} here; "
                "use the experiment, net and data it was trained with"
            )


def newest(directory: str | Path) -> Path | None:
    """The newest complete checkpoint of a run directory, or None where there is none."""
    last = Path(directory) / "checkpoints" / "last.ckpt"
    numbered = sorted((Path(directory) / "checkpoints").glob("step=*.ckpt"))
    return last if last.is_file() else (numbered[-1] if numbered else None)


def weights_of(checkpoint: dict[str, Any], name: str | None = None) -> tuple[str, dict[str, Tensor]]:
    """Name and weights of a denoiser: `raw`, an average, or by default the average that validation saw.

    Raises:
        UserError: the checkpoint has no such weights.
    """
    prefix = "denoiser."
    raw = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    ema = checkpoint["callbacks"].get("EMA", {"averages": {}, "evaluate": "raw"})
    kept = ema["averages"] if "exported" in checkpoint else {"raw": {}, **ema["averages"]}
    name = str(name or ema["evaluate"])
    if name not in kept:
        raise UserError(f"weights={name} is not in the checkpoint, which has: {', '.join(kept)}")
    return name, {**raw, **kept[name]}
