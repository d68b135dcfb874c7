"""Exported weights: one safetensors file with the config in its metadata, written by `export=safetensors`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from consistency.errors import UserError
from consistency.files.atomic import replacing
from consistency.files.checksum import content_sha256
from consistency.files.pickles import DAMAGE
from consistency.files.upgrade import PREFIX, upgraded_config
from consistency.teachers.contents import check_role, check_weights
from consistency.teachers.values import MalformedError, check_count, check_levels, check_plain

SUFFIX = ".safetensors"
KEY = "consistency"  # key of the metadata
LONGEST = 2**24  # largest number of characters of its value
CHECKSUM = "sha256"  # key of the metadata
ABOUT = {"config": dict, "experiment": str | None, "step": int, "weights": str, "sigmas": dict}
CONFIG = ("data", "model", "metric", "net", "sigma")  # required sections
MADE = ("module", "samplers")  # of which one is required: foreign files have no module


def write_exported(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write the weights of a map and their description, plain data, with a checksum of both.

    Args:
        path: of the file.
        state: tensors by name.
        about: config, experiment, step, weights (an average by name, or raw), sigmas by sampler; and more.
    """
    tensors, said = {name: tensor.contiguous() for name, tensor in state.items()}, json.dumps(about)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {KEY: said, CHECKSUM: checksum_of_export(said, tensors)})
        temporary.chmod(0o644)


def read_exported(path: Path, key: str) -> dict[str, Any]:
    """The content of a file in the form of a checkpoint, in float32, and its `sigmas`.

    Args:
        path: a file that `write_exported` has written.
        key: of the config that names it, for messages.

    Raises:
        UserError: it is damaged, of somebody else, holds no checksum, or values that are no weights.
    """
    metadata, state = read_tensors(path, key)
    about = read_metadata(metadata)
    if about is None:
        raise UserError(
            f"{key}={path} does not say what its weights mean: give a file of task=export export=safetensors"
        )
    verify(path, key, metadata, state)
    return {
        "state_dict": {f"{PREFIX}{name}": tensor.float() for name, tensor in state.items()},
        "config": about["config"],
        "callbacks": {"EMA": {"averages": {about["weights"]: {}}, "evaluate": about["weights"]}},
        "data": {name: about[name] for name in ("codec", "names") if name in about},
        "exported": True,
        "sigmas": about["sigmas"],
        "global_step": about["step"],
        "experiment": about["experiment"],
    }


def read_tensors(path: Path, key: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file, unchecked."""
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, state
    except (OSError, SafetensorError, *DAMAGE) as error:
        raise UserError(
            f"{key}={path} is damaged or cut short and was not loaded: export it again"
        ) from error


def verify(path: Path, key: str, metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    """Compare the content of a file with its checksum, and refuse tensors that cannot be weights."""
    if CHECKSUM not in metadata:
        raise UserError(f"{key}={path} was written without a checksum, by an older version: export it again")
    if metadata[CHECKSUM] != checksum_of_export(metadata[KEY], state):
        raise UserError(
            f"{key}={path} is damaged: its content is not what its checksum says; export it again"
        )
    try:
        check_weights(state, "tensor ")
        check_about(json.loads(metadata[KEY]))
    except MalformedError as fault:
        raise UserError(f"{key}={path} {fault}; export another checkpoint") from fault


def check_about(about: Mapping[str, Any]) -> None:
    """Refuse steps, configs and noise levels that no export writes.

    Raises:
        MalformedError: names the first.
    """
    check_count("step", about["step"])
    check_plain("config", about["config"])
    check_role(about.get("role"), about["config"])
    for name, sigmas in about["sigmas"].items():
        check_levels(f"sigmas.{name!r}", sigmas)


def checksum_of_export(about: str, state: Mapping[str, Tensor]) -> str:
    """The checksum of weights and their description."""
    return content_sha256({"about": about, "tensors": dict(state)})


def read_metadata(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The description of weights in the metadata of a file; None where it is incomplete."""
    try:
        about = json.loads(metadata.get(KEY, "")[:LONGEST])
        about["config"] = upgraded_config(about["config"])
        enough = all(isinstance(about[name], kind) for name, kind in ABOUT.items())
        enough &= all(isinstance(about["config"][section], dict) for section in CONFIG)
        enough &= any(isinstance(about["config"].get(section), dict) for section in MADE)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return about if enough else None
