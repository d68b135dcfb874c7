"""How a network of two times hears of the second: features of h, and linear layers that begin at zero.

As long as they are zero, the output does not depend on h, and is that of the network of one time with the
same other weights. These layers draw no random numbers, so the others begin with the same weights in both.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.nets.layers import Linear, at_least_float32, waves

SECOND = "second_time"  # the attribute of every layer that reads h, and so a part of its weights' names
OCTAVES = 3  # waves of π/2, π and 2π radians per unit of h: faster ones would make derivatives rough
FEATURES = 1 + 2 * OCTAVES


def second_features(h: Tensor) -> Tensor:
    """h [B] in [0, 1] itself, and sinusoids of it: [B, FEATURES], never below float32."""
    h = at_least_float32(h)
    octaves = torch.arange(OCTAVES, device=h.device, dtype=h.dtype)
    return torch.cat([h[:, None], waves(h, math.pi / 2 * 2**octaves)], 1)


class SecondLinear(Linear):
    """A linear layer of `second_features`, without a bias, whose weights begin at zero.

    Args:
        n_out: size of the output.
    """

    def __init__(self, n_out: int) -> None:
        super().__init__(FEATURES, n_out, bias=False)

    def reset_parameters(self) -> None:
        """Zero weights; PyTorch's own would draw random numbers first."""
        nn.init.zeros_(self.weight)


def second_layer(times: int, n_out: int) -> SecondLinear | None:
    """The layer of a network of two times; None of one."""
    return SecondLinear(n_out) if times == 2 else None


def with_second(layer: SecondLinear | None, x: Tensor, h: Tensor | None) -> Tensor:
    """x [B, n] plus what a layer makes of h [B]; x itself without a layer."""
    return x if layer is None or h is None else x + layer(second_features(h).to(layer.weight.dtype))


def of_second_time(names: Iterable[str]) -> set[str]:
    """Those names of weights that belong to layers that read h."""
    return {name for name in names if SECOND in name.split(".")}


def to_one_time(net: nn.Module) -> None:
    """Take away the layers that read h, and with them the second time; a network of one time stays as it is.

    For files of networks of one time, into which a config of two would put them.
    """
    for module in net.modules():
        for name, value in ((SECOND, None), ("times", 1)):
            if hasattr(module, name):
                setattr(module, name, value)


def check_number_of_times(times: int) -> None:
    """Refuse a network of another number of times than one or two."""
    if times not in (1, 2):
        raise UserError(f"net.times={times} must be 1, or 2 for a flow map")


def check_second(times: int, h: Tensor | None) -> None:
    """Refuse a call with a second time of a network that takes one, and the reverse."""
    if (h is None) != (times == 1):
        raise UserError(f"net.times={times}, and the network was called with {1 if h is None else 2}")
