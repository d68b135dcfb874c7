"""Configs of older files in the form of this version: pure functions on plain data."""

from collections.abc import Mapping
from typing import Any

TARGET, PARTIAL = "_target_", "_partial_"
SAMPLING = "consistency.sampling"
FORMER = f"{SAMPLING}.samplers."  # where all samplers were functions
CLASSES = {
    "onestep": f"{SAMPLING}.samplers.OneStep",
    "multistep": f"{SAMPLING}.samplers.MultiStep",
    "euler": f"{SAMPLING}.ode.Euler",
    "heun": f"{SAMPLING}.ode.Heun",
    "ddim": f"{SAMPLING}.ode.DDIM",
}
LISTS = {name: f"{SAMPLING}.levels.{name}" for name in ("karras_sigmas", "even_sigmas")}


def samplers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Samplers that were deferred functions as the classes that they have become.

    Args:
        config: of a run, plain data; its sections `samplers` and `module.samplers` are looked at.

    Returns:
        The config with these sections anew; all else is what it was.
    """
    module, found = config.get("module"), dict(config)
    if isinstance(module, Mapping):
        found["module"] = _with_samplers(module)
    return _with_samplers(found)


def sampler(node: Any) -> Any:
    """One of them; anything else is left as it is."""
    name = _name(node)
    if name not in CLASSES or node.get(PARTIAL) is not True:
        return node
    made = {key: sigmas(value) if key == "sigmas" else value for key, value in node.items() if key != PARTIAL}
    if name == "onestep" and isinstance(made.get("sigmas"), list):
        made["sigmas"] = made["sigmas"][:1]  # it began at the first, and looked at no other
    return {**made, TARGET: CLASSES[name]}


def sigmas(node: Any) -> Any:
    """A list of noise levels, or the function that makes it, which has moved."""
    return {**node, TARGET: LISTS[_name(node)]} if _name(node) in LISTS else node


def _name(node: Any) -> str:
    """Of a function that was in `consistency.sampling.samplers`; empty for anything else."""
    target = node.get(TARGET) if isinstance(node, Mapping) else None
    return target.removeprefix(FORMER) if isinstance(target, str) and target.startswith(FORMER) else ""


def _with_samplers(section: Mapping[str, Any]) -> dict[str, Any]:
    nodes = section.get("samplers")
    if not isinstance(nodes, Mapping):
        return dict(section)
    return {**section, "samplers": {name: sampler(node) for name, node in nodes.items()}}
