"""Checks of the content of a checkpoint: the types and ranges of all values that this project reads."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from consistency.files.upgrade import PREFIX
from consistency.model.maps import ROLES
from consistency.teachers.counted import check_callbacks
from consistency.teachers.values import MalformedError, check_count, check_number, check_plain, expect
from consistency.tensor import all_finite

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_content(content: Mapping[str, Any]) -> None:
    """Check all parts of a checkpoint that this project reads.

    Raises:
        MalformedError: something is missing, of another type, out of range, or not finite.
    """
    for name in ("state_dict", "config", "callbacks"):
        expect(name, content[name], dict)
    check_count("global_step", content.get("global_step"))
    check_count("epoch", content.get("epoch", 0))
    expect("experiment", content.get("experiment"), str | None)
    check_role(content.get("role"), content["config"])
    check_weights(content["state_dict"])
    check_plain("config", content["config"])
    expect("log", content.get("log", {}), dict)
    for name, size in content.get("log", {}).items():
        check_count(f"log.{name!r:.100}", size)
    _averages(content["callbacks"], content["state_dict"])
    check_callbacks(content["callbacks"])
    expect("data", content.get("data", {}), dict)
    _optimizers(content)


def check_role(role: Any, config: Mapping[str, Any]) -> None:
    """Refuse a role that is unknown, or not that of the map in the config.

    Raises:
        MalformedError: names the role.
    """
    model = config.get("model")
    target = model.get("_target_") if isinstance(model, Mapping) else None
    targets = {f"{kind.__module__}.{kind.__name__}": name for name, kind in ROLES.items()}
    built = targets.get(target) if isinstance(target, str) else None
    if role is not None and (role not in ROLES or (built is not None and role != built)):
        raise MalformedError(f"is malformed: role={role!r:.40} is not that of its config, {built}")


def check_weights(state: Mapping[str, Any], name: str = "") -> None:
    """Refuse a state that cannot be weights.

    Args:
        state: tensors by name; those of a denoiser are numbers with a fraction.
        name: before each of theirs.

    Raises:
        MalformedError: names the first tensor that holds integers, complex numbers, NaN or infinity.
    """
    for key, tensor in state.items():
        expect(f"the name {key!r:.100} in state_dict", key, str)
        expect(f"{name}{key}", tensor, Tensor)
        if key.startswith(PREFIX) or name or tensor.is_complex() or tensor.is_floating_point():
            check_tensor(f"{name}{key}", tensor)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that does not hold finite floating-point numbers.

    Raises:
        MalformedError: names it.
    """
    if tensor.layout != torch.strided or tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise MalformedError(f"holds {kind} in {name[:100]}, where weights are numbers with a fraction")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise MalformedError(f"has fewer numbers than the shape of {name[:100]} needs")
    if not all_finite(tensor):
        raise MalformedError(f"holds NaN or infinity in {name[:100]}: the run that wrote it had diverged")


def _averages(callbacks: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Check that each average has tensors of the map's names and shapes, the same in all averages."""
    ema = callbacks.get("EMA")
    if ema is None:
        return
    expect("callbacks.EMA", ema, dict)
    averages, evaluate = ema.get("averages"), ema.get("evaluate")
    expect("averages", averages, dict)
    if not isinstance(evaluate, str) or evaluate not in {"raw", *averages}:
        raise MalformedError(f"is malformed: evaluate={evaluate!r:.40} is none of its averages")
    raw = {key.removeprefix(PREFIX): tensor for key, tensor in state.items() if key.startswith(PREFIX)}
    names = None
    for name, kept in averages.items():
        expect("the name of an average", name, str)
        expect(f"averages.{name}", kept, dict)
        check_weights(kept, f"averages.{name}.")
        for key, tensor in kept.items():
            if key not in raw or raw[key].shape != tensor.shape:
                there = "no weight" if key not in raw else f"a weight of shape {list(raw[key].shape)}"
                raise MalformedError(f"is malformed: averages.{name}.{key:.100} is the average of {there}")
        names = names or kept.keys()
        if kept.keys() != names:
            raise MalformedError(f"is malformed: averages.{name} is of other weights than the first average")


def _optimizers(content: Mapping[str, Any]) -> None:
    """Check that optimizer states are plain and finite; whether they fit is checked when a run resumes."""
    for name in ("optimizer_states", "lr_schedulers"):
        expect(name, content.get(name, []), list)
        for part in content.get(name, []):
            expect(f"an entry of {name}", part, dict)
    for schedule in content.get("lr_schedulers", []):
        check_count("lr_schedulers.last_epoch", schedule.get("last_epoch", 0))
    for optimizer in content.get("optimizer_states", []):
        expect("optimizer_states.param_groups", optimizer.get("param_groups"), list)
        for group in optimizer["param_groups"]:
            expect("an entry of param_groups", group, dict)
            expect("param_groups.params", group.get("params"), list)
            check_number("param_groups.lr", group.get("lr"))
        for name, tensor in _moments(optimizer.get("state")):
            if tensor.is_floating_point() or tensor.is_complex():
                check_tensor(name, tensor)


def _moments(state: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of an optimizer's state."""
    expect("optimizer_states.state", state, dict)
    for index, kept in state.items():
        expect(f"optimizer_states.state.{index!r:.40}", kept, dict)
        for name, value in kept.items():
            if isinstance(value, Tensor):
                yield f"optimizer_states.state.{index}.{name}", value
