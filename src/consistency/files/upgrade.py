"""What older versions have written, as this version writes it: pure functions of plain data.

A file may hold anything: what is not as expected stays as it is, for the checks behind to refuse.
"""

from collections.abc import Mapping
from typing import Any

from consistency.files.registry import TARGET

FORMER_MAP = "consistency.model.denoiser.Denoiser"  # of both roles, up to format 2
DENOISES = "consistency.lit.diffusion.Diffusion"  # the only training whose network was a denoiser
BOARDS = {"consistency.lit.boards.Board": "consistency.lit.loggers.tensorboard.Board"}
FORMER_PREFIX, PREFIX = "denoiser.", "model."  # of its weights among a module's


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of any former version, in the present format.

    Args:
        content: state_dict, config and whatever else it has.
    """
    state, config = content["state_dict"], content["config"]
    return {
        **content,
        "state_dict": renamed(state) if isinstance(state, dict) else state,
        "config": upgraded_config(config) if isinstance(config, dict) else config,
    }


def upgraded_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run of any former version, as this version composes it."""
    return with_loggers(with_role(dict(config)))


def with_role(config: dict[str, Any]) -> dict[str, Any]:
    """`denoiser`, of a network and a preconditioner, is `precond` and a `model` of the role of its method."""
    former = config.get("denoiser")
    if "model" in config or not isinstance(former, dict):
        return config
    module = config.get("module")
    denoises = isinstance(module, dict) and module.get(TARGET) == DENOISES
    others = {key: node for key, node in config.items() if key != "denoiser"}
    precond = {"precond": former["precond"]} if "precond" in former else {}
    return {**others, **precond, "model": mapped(former, "Denoiser" if denoises else "Consistency")}


def with_loggers(config: dict[str, Any]) -> dict[str, Any]:
    """There was one logger, which had no name."""
    only = config.get("logger")
    target = only.get(TARGET) if isinstance(only, dict) else None
    if not (isinstance(only, dict) and isinstance(target, str)):
        return config
    return {**config, "logger": {"tensorboard": {**only, TARGET: BOARDS.get(target, target)}}}


def mapped(former: Mapping[str, Any], role: str) -> dict[str, Any]:
    """What a `denoiser` of a former version is: a map of a role."""
    known = former.get(TARGET) == FORMER_MAP
    return {**former, **({TARGET: f"consistency.model.maps.{role}"} if known else {})}


def renamed(state: dict[Any, Any]) -> dict[Any, Any]:
    """Weights under their present names."""
    return {
        PREFIX + name.removeprefix(FORMER_PREFIX)
        if isinstance(name, str) and name.startswith(FORMER_PREFIX)
        else name: tensor
        for name, tensor in state.items()
    }
