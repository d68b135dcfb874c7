"""Checks the optimiser at the start, before anything is written, by building one for a single parameter."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from consistency.errors import UserError, at_least, positive


def check_optimizer(optimizer: Callable[..., Any]) -> None:
    """Build the optimiser for a single parameter.

    Raises:
        UserError: it refuses its options, is no optimiser, or its learning rate or weight decay is negative.
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
