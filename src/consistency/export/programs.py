"""The bare network, and any jump of a flow map, for those who write their own loop.

They are exported beside the samplers of `consistency.sampling.programs`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from consistency.model.coefficients import Precond
from consistency.model.condition import given_label
from consistency.model.maps import FlowMap, Map


class RawNetwork(nn.Module):
    """F(c_in x, c_noise). D or f is c_skip x + c_out F; `model.json` lists the coefficients by σ.

    Args:
        f: a denoiser or a consistency function.
    """

    def __init__(self, f: Map) -> None:
        super().__init__()
        self.net = f.net

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """F, like x, of the scaled x [B, ...], c_noise [B] and label [B] or None."""
        return self.net(x, noise, given_label(label))


class TwoTimeNetwork(RawNetwork):
    """F(c_in x, c_noise, h) of a flow map, with the coefficients at t and h of `consistency.model.second`."""

    def forward(self, x: Tensor, noise: Tensor, h: Tensor, label: Tensor | None = None) -> Tensor:
        """F, like x, of the scaled x [B, ...], c_noise [B] of t, h [B] in [0, 1] and label [B] or None."""
        return self.net(x, noise, given_label(label), h)


class AnyJump(nn.Module):
    """X = (s/t) x + (1 - s/t) f(x, t, s) of a flow map: all between the levels, coefficients and h included.

    Args:
        f: a flow map.
    """

    def __init__(self, f: FlowMap) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        """X [B, ...] at level s of the trajectory through x [B, ...] at t; t > 0 and 0 <= s <= t are [B].

        Levels are σ, x is x_0 + t z without any scaling, and label is [B] or None.
        """
        return self.f.jump(x, t, s, given_label(label))


def network(f: Map) -> RawNetwork:
    """The bare network of a map, with a second time where it has one."""
    return TwoTimeNetwork(f) if isinstance(f, FlowMap) else RawNetwork(f)


def describe_second(f: Map) -> dict[str, str]:
    """The formula of h, as text by key, where the network takes it: of a flow map."""
    if not isinstance(f, FlowMap):
        return {}
    return {"h": f"atan(s/{f.sigma_data:.9g}) / atan(t/{f.sigma_data:.9g})"}


def coefficients(precond: Precond, sigmas: Sequence[float]) -> list[dict[str, float]]:
    """σ, c_skip, c_out, c_in and c_noise of each level, as numbers."""
    c = precond(torch.tensor(sigmas, dtype=torch.float64))
    rows = zip(*(values.tolist() for values in c), strict=True)
    return [
        {"sigma": sigma, **dict(zip(c._fields, row, strict=True))}
        for sigma, row in zip(sigmas, rows, strict=True)
    ]
