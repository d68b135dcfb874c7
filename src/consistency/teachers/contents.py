"""What a checkpoint must hold, by type and range: the first thing that is wrong with it, in a few words."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from consistency.tensor import finite

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
PREFIX = "denoiser."  # of its weights among a module's
MOST = 100_000  # values that a config may have
LARGEST = 2**53  # a count


class MalformedError(ValueError):
    """What is wrong with the content of a file, to be read after its name."""


def check(content: Mapping[str, Any]) -> None:
    """Hold all of a checkpoint that this project reads against what it writes.

    Raises:
        MalformedError: something is missing, of another type, out of range, or not finite.
    """
    for name in ("state_dict", "config", "callbacks"):
        _expect(name, content[name], dict)
    _count("global_step", content.get("global_step"))
    _count("epoch", content.get("epoch", 0))
    _expect("experiment", content.get("experiment"), str | None)
    check_weights(content["state_dict"])
    _plain("config", content["config"])
    _expect("log", content.get("log", {}), dict)
    for name, size in content.get("log", {}).items():
        _count(f"log.{name!r:.100}", size)
    _averages(content["callbacks"], content["state_dict"])
    _callbacks(content["callbacks"])
    _optimizers(content)


def check_weights(state: Mapping[str, Any], name: str = "") -> None:
    """Refuse what cannot be weights.

    Args:
        state: tensors by name; those of a denoiser are numbers with a fraction.
        name: before each of theirs.

    Raises:
        MalformedError: names the first tensor that holds integers, complex numbers, NaN or infinity.
    """
    for key, tensor in state.items():
        _expect(f"the name {key!r:.100} in state_dict", key, str)
        _expect(f"{name}{key}", tensor, Tensor)
        if key.startswith(PREFIX) or name or tensor.is_complex() or tensor.is_floating_point():
            check_tensor(f"{name}{key}", tensor)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that holds anything but finite numbers with a fraction.

    Raises:
        MalformedError: names it.
    """
    if tensor.layout != torch.strided or tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise MalformedError(f"holds {kind} in {name[:100]}, where weights are numbers with a fraction")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise MalformedError(f"has fewer numbers than the shape of {name[:100]} needs")
    if not finite(tensor):
        raise MalformedError(f"holds NaN or infinity in {name[:100]}: the run that wrote it had diverged")


def _expect(name: str, value: Any, kind: Any) -> None:
    if not isinstance(value, kind):
        raise MalformedError(f"is malformed: {name[:100]} is of type {type(value).__name__}")


def _count(name: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise MalformedError(f"is malformed: {name}={value!r:.40} is no count")


def _number(name: str, value: Any) -> None:
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if type(value) not in (int, float) or not math.isfinite(value):
        raise MalformedError(f"is malformed: {name}={value!r:.40} is no finite number")


def _plain(name: str, config: Any) -> None:
    """Containers, strings and numbers, and not very many: a small file can describe a large tree."""
    waiting, seen = [config], 0
    while waiting:
        node, seen = waiting.pop(), seen + 1
        if seen > MOST:
            raise MalformedError(f"is malformed: {name} has more than {MOST:,} values")
        if isinstance(node, dict):
            for key in node:
                _expect(f"the key {key!r:.40} in {name}", key, str | int | float)
            waiting.extend(node.values())
        elif isinstance(node, list | tuple):
            waiting.extend(node)
        elif not (node is None or isinstance(node, str | int | float)):
            raise MalformedError(f"is malformed: {name} holds a {type(node).__name__}")


def _averages(callbacks: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Each has tensors of the denoiser's names and shapes, the same in all."""
    ema = callbacks.get("EMA")
    if ema is None:
        return
    _expect("callbacks.EMA", ema, dict)
    averages, evaluate = ema.get("averages"), ema.get("evaluate")
    _expect("averages", averages, dict)
    if not isinstance(evaluate, str) or evaluate not in {"raw", *averages}:
        raise MalformedError(f"is malformed: evaluate={evaluate!r:.40} is none of its averages")
    raw = {key.removeprefix(PREFIX): tensor for key, tensor in state.items() if key.startswith(PREFIX)}
    names = None
    for name, kept in averages.items():
        _expect("the name of an average", name, str)
        _expect(f"averages.{name}", kept, dict)
        check_weights(kept, f"averages.{name}.")
        for key, tensor in kept.items():
            if key not in raw or raw[key].shape != tensor.shape:
                there = "no weight" if key not in raw else f"a weight of shape {list(raw[key].shape)}"
                raise MalformedError(f"is malformed: averages.{name}.{key:.100} is the average of {there}")
        names = names or kept.keys()
        if kept.keys() != names:
            raise MalformedError(f"is malformed: averages.{name} is of other weights than the first average")


def _callbacks(callbacks: Mapping[str, Any]) -> None:
    """What callbacks of ours have counted."""
    for name in callbacks:
        _expect(f"the name {name!r:.40} in callbacks", name, str)
    best = _part(callbacks, "Checkpoints").get("best")
    if best is not None:
        _number("callbacks.Checkpoints.best", best)
    _count("callbacks.Guard.rollbacks", _part(callbacks, "Guard").get("rollbacks", 0))


def _part(callbacks: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = callbacks.get(name, {})
    _expect(f"callbacks.{name}", part, dict)
    return part


def _optimizers(content: Mapping[str, Any]) -> None:
    """Plain and finite; whether they are of the run's parameters is known when they are loaded."""
    for name in ("optimizer_states", "lr_schedulers"):
        _expect(name, content.get(name, []), list)
        for part in content.get(name, []):
            _expect(f"an entry of {name}", part, dict)
    for schedule in content.get("lr_schedulers", []):
        _count("lr_schedulers.last_epoch", schedule.get("last_epoch", 0))
    for optimizer in content.get("optimizer_states", []):
        _expect("optimizer_states.param_groups", optimizer.get("param_groups"), list)
        for group in optimizer["param_groups"]:
            _expect("an entry of param_groups", group, dict)
            _expect("param_groups.params", group.get("params"), list)
            _number("param_groups.lr", group.get("lr"))
        for name, tensor in _moments(optimizer.get("state")):
            if tensor.is_floating_point() or tensor.is_complex():
                check_tensor(name, tensor)


def _moments(state: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of an optimizer's state."""
    _expect("optimizer_states.state", state, dict)
    for index, kept in state.items():
        _expect(f"optimizer_states.state.{index!r:.40}", kept, dict)
        for name, value in kept.items():
            if isinstance(value, Tensor):
                yield f"optimizer_states.state.{index}.{name}", value
