"""Reading and writing checkpoint files: complete or not there, and never code."""

import os
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from consistency.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name and renames: a kill at any moment leaves the older file whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write, flush to disk, rename."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")  # of a run that was killed: overwritten
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"checkpoint {path} cannot be written ({error.strerror}): check run_dir"
            ) from error

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read tensors and plain data; refuse the rest."""
        return read_checkpoint(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of ours. A file is untrusted input: tensors and plain containers only.

    Raises:
        UserError: the file is missing, cut short, holds code, or is not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"ckpt_path={path}: no such file; give a .ckpt of a run, or 'last'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wonders at what it is about to refuse
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except UnpicklingError as error:
        raise UserError(
            f"ckpt_path={path} holds something other than tensors and plain data, or is damaged, and was not "
            "loaded; use a checkpoint written by this project"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"ckpt_path={path} is damaged or cut short and was not loaded; use an older checkpoint of the run"
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "config", "callbacks"} <= checkpoint.keys():
        raise UserError(
            f"ckpt_path={path} is not a checkpoint of this project: it lacks state_dict and config"
        )
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
    kept = {"raw": {}, **ema["averages"]}
    name = str(name or ema["evaluate"])
    if name not in kept:
        raise UserError(f"weights={name} is not in the checkpoint, which has: {', '.join(kept)}")
    return name, {**raw, **kept[name]}
