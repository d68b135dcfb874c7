"""How many samples go through a network at once, where a batch would take minutes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from consistency.model.condition import Condition

WORK = 10**11  # floating-point operations of a call on a CPU: seconds, even where others are at work


@dataclass(frozen=True, eq=False)
class Portions:
    """f, called with at most so many samples at a time.

    Args:
        f: a map or a closed form.
        most: samples of a call.
        done: called after each call with its number of samples.
    """

    f: Callable[..., Tensor]
    most: int
    done: Callable[[int], None]

    def __call__(self, x: Tensor, *levels: Tensor | Condition) -> Tensor:
        """f(x, *levels): σ, or both of a flow map's, and the condition."""
        found: list[Tensor] = []
        for first in range(0, len(x), self.most):
            rows = slice(first, first + self.most)
            found.append(self.f(x[rows], *(rows_of(level, rows) for level in levels)))
            self.done(len(found[-1]))
        return found[0] if len(found) == 1 else torch.cat(found)


def rows_of(level: Tensor | Condition | float, rows: slice) -> Tensor | Condition | float:
    """What some of the samples are given; a number is that of all."""
    if isinstance(level, Condition):
        return level.rows(rows)
    return level[rows] if isinstance(level, Tensor) else level


def portion(f: nn.Module, call: Callable[[], Any], device: torch.device) -> int:
    """Samples that f takes at a time: a number that depends on the network, not on the machine's speed.

    On a GPU, and for all but large networks on a CPU, it is more than any batch has.

    Args:
        f: the network.
        call: calls it with one sample.
        device: where it computes.
    """
    if device.type != "cpu":
        return 2**31
    with uncompiled(f), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return max(1, WORK // max(counter.get_total_flops(), 1))


def uncompiled(f: nn.Module) -> AbstractContextManager[Any]:
    """Uncompiled: what a compiler makes of a step depends on the shapes that it has seen before."""
    compiled = any(part._compiled_call_impl is not None for part in f.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
