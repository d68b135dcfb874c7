"""Upgrades content of checkpoints from the formats of older versions, by pure functions of plain data.

A file may hold anything: values of an unexpected form are left as they are, for later checks to refuse.
"""

from collections.abc import Mapping
from typing import Any

from consistency.files.configs import PARTIAL, TARGET

FORMER_MAP = "consistency.model.denoiser.Denoiser"  # the class of maps of both roles, up to format 2
DENOISES = "consistency.lit.diffusion.Diffusion"  # the only module that trained denoisers
BOARDS = {"consistency.lit.boards.Board": "consistency.lit.loggers.tensorboard.Board"}
FORMER_PREFIX, PREFIX = "denoiser.", "model."  # of the map's weights in the state of a module
SAMPLING = "consistency.sampling"
FORMER = f"{SAMPLING}.samplers."  # the module in which samplers were functions
CLASSES = {
    "onestep": f"{SAMPLING}.samplers.OneStep",
    "multistep": f"{SAMPLING}.samplers.MultiStep",
    "euler": f"{SAMPLING}.ode.Euler",
    "heun": f"{SAMPLING}.ode.Heun",
    "ddim": f"{SAMPLING}.ode.DDIM",
}
DIGITS = {"offset": 77.8537232192543, "scale": 191.7018151023965}  # formerly not part of the config
LISTS = {name: f"{SAMPLING}.levels.{name}" for name in ("karras_sigmas", "even_sigmas")}


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint of any older version, in the present format.

    Args:
        content: of the file, with state_dict, config and other keys.
    """
    state, config = content["state_dict"], content["config"]
    return {
        **content,
        "state_dict": rename_weights(state) if isinstance(state, dict) else state,
        "config": upgraded_config(config) if isinstance(config, dict) else config,
    }


def upgraded_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run of any older version, in the present format."""
    return samplers(with_units(with_loggers(with_role(dict(config)))))


def with_role(config: dict[str, Any]) -> dict[str, Any]:
    """Replace the section `denoiser` by `precond` and a `model`, whose role follows from the method."""
    former = config.get("denoiser")
    if "model" in config or not isinstance(former, dict):
        return config
    module = config.get("module")
    denoises = isinstance(module, dict) and module.get(TARGET) == DENOISES
    others = {key: node for key, node in config.items() if key != "denoiser"}
    precond = {"precond": former["precond"]} if "precond" in former else {}
    return {**others, **precond, "model": upgrade_denoiser(former, "Denoiser" if denoises else "Consistency")}


def with_loggers(config: dict[str, Any]) -> dict[str, Any]:
    """Name the only logger that older versions had."""
    only = config.get("logger")
    target = only.get(TARGET) if isinstance(only, dict) else None
    if not (isinstance(only, dict) and isinstance(target, str)):
        return config
    return {**config, "logger": {"tensorboard": {**only, TARGET: BOARDS.get(target, target)}}}


def with_units(config: dict[str, Any]) -> dict[str, Any]:
    """Add offset and scale of the codec of digits, which only the class of the data had."""
    data = config.get("data")
    if not isinstance(data, dict) or data.get(TARGET) != "consistency.lit.data.digits.Digits":
        return config
    return config if data.get("codec") else {**config, "data": {**DIGITS, **data}}


def upgrade_denoiser(former: Mapping[str, Any], role: str) -> dict[str, Any]:
    """The section `model` of a former section `denoiser`."""
    known = former.get(TARGET) == FORMER_MAP
    return {**former, **({TARGET: f"consistency.model.maps.{role}"} if known else {})}


def rename_weights(state: dict[Any, Any]) -> dict[Any, Any]:
    """A state_dict with the present prefix of weights."""
    return {
        PREFIX + name.removeprefix(FORMER_PREFIX)
        if isinstance(name, str) and name.startswith(FORMER_PREFIX)
        else name: tensor
        for name, tensor in state.items()
    }


def samplers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace samplers that were partial functions by their classes.

    Args:
        config: of a run, plain data.

    Returns:
        The config with new sections `samplers` and `module.samplers`; the rest is unchanged.
    """
    module, found = config.get("module"), dict(config)
    if isinstance(module, Mapping):
        found["module"] = _with_samplers(module)
    return _with_samplers(found)


def upgrade_sampler(node: Any) -> Any:
    """Replace the node of one sampler; any other node is left as it is."""
    name = _name(node)
    if name not in CLASSES or node.get(PARTIAL) is not True:
        return node
    made = {
        key: upgrade_sigmas(value) if key == "sigmas" else value
        for key, value in node.items()
        if key != PARTIAL
    }
    if name == "onestep" and isinstance(made.get("sigmas"), list):
        made["sigmas"] = made["sigmas"][:1]  # it used the first only
    return {**made, TARGET: CLASSES[name]}


def upgrade_sigmas(node: Any) -> Any:
    """A list of noise levels, or the function that makes it at its new place."""
    return {**node, TARGET: LISTS[_name(node)]} if _name(node) in LISTS else node


def _name(node: Any) -> str:
    """Name of a function in the former `consistency.sampling.samplers`; empty for anything else."""
    target = node.get(TARGET) if isinstance(node, Mapping) else None
    return target.removeprefix(FORMER) if isinstance(target, str) and target.startswith(FORMER) else ""


def _with_samplers(section: Mapping[str, Any]) -> dict[str, Any]:
    nodes = section.get("samplers")
    if not isinstance(nodes, Mapping):
        return dict(section)
    return {**section, "samplers": {name: upgrade_sampler(node) for name, node in nodes.items()}}
