"""What a config leaves to be called later is called once at the start, before anything is written."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from consistency.errors import UserError, at_least, check_call, positive
from consistency.model.condition import NONE, Condition
from consistency.schedule.draws import ImageDraws


def check_optimizer(optimizer: Callable[..., Any]) -> None:
    """Make the optimiser of a single number.

    Raises:
        UserError: it takes none of its options, or cannot learn with them.
    """
    try:
        made = optimizer([nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"optimizer: {error}; change that value of the optimizer") from error
    if not isinstance(made, Optimizer):
        raise UserError(f"optimizer={type(made).__name__} is no optimiser: choose one with optimizer=NAME")
    for group in made.param_groups:
        positive("optimizer", lr=float(group["lr"]))
        at_least("optimizer", 0, weight_decay=float(group.get("weight_decay", 0)))


def check_samplers(samplers: Mapping[str, Callable[..., Tensor]]) -> None:
    """Make a sample with each, by a function that gives back its input.

    Raises:
        UserError: one has no noise levels, or impossible ones.
    """
    for name, sampler in samplers.items():
        z = torch.zeros(1, 2)
        check_call(f"samplers.{name}", sampler, same, z)
        try:
            sampler(same, z, c=NONE, draws=ImageDraws(0, [0]))
        except (ValueError, OverflowError, ZeroDivisionError) as error:
            raise UserError(f"samplers.{name}: {error}") from error


def same(x: Tensor, sigma: Any, c: Condition = NONE) -> Tensor:
    """x."""
    return x
