"""Checks of an optimizer's state in a checkpoint by the state that a new optimizer of the class makes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

State = Mapping[str, Any]
UNTRIED = (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError)


def check_moments(
    found: Mapping[Any, State], optimizer: Optimizer, most: int, complete: bool = True
) -> str | None:
    """A message about the first part of a state that does not fit the optimizer; None where all fits.

    Args:
        found: what a checkpoint has, by number of the parameter.
        optimizer: of this run, new.
        most: steps that it can have counted.
        complete: whether every parameter must have a state.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index in found:
        if type(index) is not int or not 0 <= index < len(parameters):
            return f"optimizer_states.state.{index!r:.40} is of no parameter"
    fresh = {kind: kept_by(optimizer, *kind) for kind in {(p.dtype, p.dim()) for p in parameters}}
    for index, parameter in enumerate(parameters):
        name, expected = f"optimizer_states.state.{index}", fresh[parameter.dtype, parameter.dim()]
        if index in found:
            fault = first_misfit(found[index], expected, parameter, most)
        else:
            fault = "absent, and would begin anew" if complete and expected else None
        if fault:
            return f"{name} is {fault}" if index not in found else f"{name}.{fault}"
    return None


def kept_by(optimizer: Optimizer, dtype: torch.dtype, axes: int) -> State:
    """The state that an optimizer with the same options keeps of a parameter.

    Nothing is known, and nothing asked for, of optimizers of other packages, and of those that cannot make a
    step on the CPU.
    """
    if not f"{type(optimizer).__module__}.".startswith("torch.optim."):
        return {}
    values = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    parameter = nn.Parameter(torch.zeros(sides(axes), dtype=dtype))
    parameter.grad = torch.ones_like(parameter)
    try:
        eager = {"capturable": False} if "capturable" in values else {}  # which needs an accelerator
        group = {**values, **eager, "params": [parameter]}
        tried = type(optimizer)([group], lr=values["lr"])  # type: ignore[call-arg]
        tried.step()
    except UNTRIED:
        return {}
    return tried.state[parameter]


def sides(axes: int) -> tuple[int, ...]:
    """A small shape whose sides all differ."""
    return tuple(range(2, 2 + axes))


def first_misfit(found: State, fresh: State, parameter: Tensor, most: int) -> str | None:
    """A message about the first value that is absent or has another type, shape or range."""
    for name, value in fresh.items():
        if name not in found:
            return f"{name} is absent"
        if isinstance(value, Tensor) and value.dim() and value.shape == sides(parameter.dim()):
            if getattr(found[name], "shape", None) != parameter.shape:
                return f"{name} is not shaped like its parameter"
            if not found[name].is_floating_point():
                return f"{name} holds no numbers with a fraction"
        elif kind_of(found[name]) != kind_of(value):
            return f"{name} is of another type than its optimizer writes"
    return None if "step" not in found or counts(found["step"], most) else f"step is not from 0 to {most}"


def kind_of(value: Any) -> Any:
    """Type of a value; of tensors with their dtype and number of axes."""
    return (value.dtype, value.dim()) if isinstance(value, Tensor) else type(value)


def counts(value: Any, most: int) -> bool:
    """Whether a value is a whole number of steps, at most so many."""
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return type(value) in (int, float) and 0 <= value <= most and value == int(value)
