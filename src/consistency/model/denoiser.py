"""The one signature everything else speaks: (x, σ, label) -> an estimate of clean data."""

from typing import Protocol

import torch
from torch import Tensor, nn

from consistency.model.precond import Precond
from consistency.tensor import expand


class DenoiserLike(Protocol):
    """Any map (x [B, ...], σ [B], label [B] or None) -> [B, ...]: a network, a teacher, a closed form."""

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Clean data estimated from x at noise level σ."""
        ...


class Denoiser(nn.Module):
    """A network that means something: D(x, σ) of a teacher, or the consistency function f(x, σ).

    Args:
        net: F, called as net(x [B, ...], c_noise [B], label [B] or None) -> [B, ...].
        precond: what its input and output mean.
    """

    def __init__(self, net: nn.Module, precond: Precond) -> None:
        super().__init__()
        self.net, self.precond = net, precond
        self._known: dict[float, tuple[float, ...]] = {}  # coefficients, by σ

    def forward(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """c_skip x + c_out F(c_in x, c_noise), in the dtype of x, for x [B, ...] and σ [B].

        `augment` [B, n] tells a teacher's network how x was augmented; nobody else gives one.
        """
        c = self.precond(sigma)
        noise = c.noise.to(x.device, torch.promote_types(x.dtype, torch.float32))  # bf16 would merge levels
        how = () if augment is None else (augment,)
        F = self.net(expand(c.inp, x) * x, noise, label, *how)
        return expand(c.skip, x) * x + expand(c.out, x) * F.to(x.dtype)

    def at(self, x: Tensor, sigma: float, label: Tensor | None = None) -> Tensor:
        """The same at one σ for all samples, whose coefficients are numbers, and are kept.

        A small network takes no longer than evaluating them for every batch.
        """
        if sigma not in self._known:
            self._known[sigma] = tuple(
                c.item() for c in self.precond(torch.tensor(sigma, dtype=torch.float64))
            )
        skip, out, inp, c_noise = self._known[sigma]
        dtype = torch.promote_types(x.dtype, torch.float32)
        noise = torch.full((x.shape[0],), c_noise, dtype=dtype, device=x.device)
        return skip * x + out * self.net(inp * x, noise, label).to(x.dtype)
