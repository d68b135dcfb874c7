"""The bare network as a module for export, for users who write their own sampling loop."""

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
    """F(c_in x, c_noise, s/t) of a flow map, with the coefficients at t."""

    def forward(self, x: Tensor, noise: Tensor, ratio: Tensor, label: Tensor | None = None) -> Tensor:
        """F, like x, of the scaled x [B, ...], c_noise [B] of t, s/t [B] and label [B] or None."""
        return self.net(x, noise, given_label(label), ratio)


def network(f: Map) -> RawNetwork:
    """The bare network of a map, with a second time where it has one."""
    return TwoTimeNetwork(f) if isinstance(f, FlowMap) else RawNetwork(f)


def coefficients(precond: Precond, sigmas: Sequence[float]) -> list[dict[str, float]]:
    """σ, c_skip, c_out, c_in and c_noise of each level, as numbers."""
    c = precond(torch.tensor(sigmas, dtype=torch.float64))
    rows = zip(*(values.tolist() for values in c), strict=True)
    return [
        {"sigma": sigma, **dict(zip(c._fields, row, strict=True))}
        for sigma, row in zip(sigmas, rows, strict=True)
    ]
