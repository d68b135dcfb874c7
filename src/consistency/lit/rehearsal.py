"""Parts of a run that are used later are checked at the start, before anything is written."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from consistency.errors import UserError, at_least, positive
from consistency.sampling.samplers import Sampler


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


def check_samplers(samplers: Mapping[str, object], f: nn.Module) -> None:
    """Refuse what is no sampler, and samplers of another role than the model's.

    Raises:
        UserError: names the first.
    """
    for name, sampler in samplers.items():
        if not isinstance(sampler, Sampler):
            raise UserError(
                f"samplers.{name} is no sampler: choose a _target_ of configs/samplers, or a class of your "
                "own that extends consistency.sampling.samplers.Sampler"
            )
        try:
            sampler.map_of(f)
        except UserError as error:
            raise UserError(f"samplers.{name}: {error}") from error
