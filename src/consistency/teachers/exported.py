"""Weights with what they mean, in one safetensors file: what `export=safetensors` writes."""

import json
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from consistency.atomic import replacing
from consistency.errors import UserError

SUFFIX = ".safetensors"
KEY = "consistency"  # of the metadata
ABOUT = {"config": dict, "experiment": str | None, "step": int, "weights": str, "sigmas": dict}
CONFIG = ("data", "denoiser", "metric", "module", "net", "sigma")  # sections without which nothing is built


def write_exported(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write the weights of a denoiser, and what is known of them as plain data.

    Args:
        path: of the file.
        state: tensors by name.
        about: config, experiment, step, weights (an average by name, or raw), sigmas by sampler; and more.
    """
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {KEY: json.dumps(about)})
        temporary.chmod(0o644)


def read_exported(path: Path, key: str) -> dict[str, Any]:
    """What a checkpoint has, in float32: state_dict, config, callbacks, global_step, experiment; and sigmas.

    Args:
        path: a file that `write_exported` has written.
        key: of the config that names it, for messages.

    Raises:
        UserError: it is damaged, or of somebody else.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {f"denoiser.{name}": file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{key}={path} is damaged or cut short and was not loaded: export it again"
        ) from error
    about = told(metadata)
    if about is None:
        raise UserError(
            f"{key}={path} does not say what its weights mean: give a file of task=export export=safetensors"
        )
    return {
        "state_dict": state,
        "config": about["config"],
        "callbacks": {"EMA": {"averages": {about["weights"]: {}}, "evaluate": about["weights"]}},
        "exported": True,
        "sigmas": about["sigmas"],
        "global_step": about["step"],
        "experiment": about["experiment"],
    }


def told(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What a file says of its weights; None where it says too little."""
    try:
        about = json.loads(metadata.get(KEY, ""))
        enough = all(isinstance(about[name], kind) for name, kind in ABOUT.items())
        enough &= all(isinstance(about["config"][section], dict) for section in CONFIG)
        enough &= all(
            levels and all(0 < sigma < inf for sigma in levels) for levels in about["sigmas"].values()
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return about if enough else None
