"""The second time of a flow map, as its network is given it.

A network of two times has the attribute `times` = 2 and is called as net(x, c_noise, c, h); one without this
attribute takes one time, net(x, c_noise, c).
"""

from typing import Any

import torch
from torch import Tensor

from consistency.errors import UserError


def second_time(t: Tensor | float, s: Tensor | float, sigma_data: float) -> Tensor:
    """h = atan(s/σ_data) / atan(t/σ_data): 0 at s = 0 and 1 at s = t, both exactly, and smooth between.

    Angles resolve an s of about σ_data at every t, where the map varies most with s; at t = 80 all of these
    would have an s/t below 0.02.

    Args:
        t: noise level of x, [B] or one for all, > 0.
        s: noise level that the map leads to, [B] or one for all, 0 <= s <= t.
        sigma_data: standard deviation of the data, > 0.

    Returns:
        h in [0, 1], float64; [B], or [] where t and s are numbers. Differentiable in t and s.
    """
    angle_s, angle_t = (torch.atan(_float64(level) / sigma_data) for level in (s, t))
    return angle_s.to(angle_t.device) / angle_t


def ratio(t: Tensor | float, s: Tensor | float) -> Tensor:
    """s/t, float64, for t and s as above: the share of x in a point between x and f."""
    share_of, whole = _float64(s), _float64(t)
    return share_of.to(whole.device) / whole


def _float64(level: Tensor | float) -> Tensor:
    return level.double() if isinstance(level, Tensor) else torch.tensor(level, dtype=torch.float64)


def check_times(net: Any, times: int, role: str) -> None:
    """Refuse a network of two times where one is given to it, and the reverse.

    Args:
        net: a network.
        times: that a map of this role gives it.
        role: of the map, for the message.

    Raises:
        UserError: the network takes another number of times.
    """
    takes = getattr(net, "times", 1)
    if takes == times:
        return
    if times == 1:
        raise UserError(f"net.times={takes} is for flow maps, and this is a {role}: set net.times=1")
    raise UserError(
        f"net.times: a {role} gives its network two times, and {type(net).__name__} takes one: set "
        "net.times=2, or choose a network that has this key, such as net=mlp"
    )
