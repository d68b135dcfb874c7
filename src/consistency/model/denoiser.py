"""The one signature everything else speaks: (x, σ, label) -> an estimate of clean data."""

from typing import Protocol

import torch
from torch import Tensor, nn

from consistency.model.precond import Coefficients, Precond
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

    Attributes:
        is_consistency: known to be a consistency function, whose x - f(x, σ) is no direction to follow: a
            training can begin with its weights and not learn from it. Set where a file is read.
        codec_sha256: of what the network saw in training; None where its file does not say.
    """

    is_consistency = False
    codec_sha256: str | None = None

    def __init__(self, net: nn.Module, precond: Precond) -> None:
        super().__init__()
        self.net, self.precond = net, precond
        self._known: dict[tuple[float, torch.dtype, torch.device], Coefficients] = {}

    def forward(
        self, x: Tensor, sigma: Tensor | float, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """c_skip x + c_out F(c_in x, c_noise), in the dtype of x, for x [B, ...] and σ [B], or one σ for all.

        `augment` [B, n] tells a teacher's network how x was augmented; nobody else gives one.
        """
        skip, out, inp, noise = self._each(x, sigma) if isinstance(sigma, Tensor) else self._all(x, sigma)
        how = () if augment is None else (augment,)
        F = self.net(inp * x, noise, label, *how)
        return skip * x + out * F.to(x.dtype)

    def _each(self, x: Tensor, sigma: Tensor) -> Coefficients:
        c = self.precond(sigma)
        noise = c.noise.to(x.device, torch.promote_types(x.dtype, torch.float32))  # bf16 would merge levels
        return Coefficients(expand(c.skip, x), expand(c.out, x), expand(c.inp, x), noise)

    def _all(self, x: Tensor, sigma: float) -> Coefficients:
        """The same for one σ: kept, for evaluating them takes about as long as a small network."""
        key = (sigma, x.dtype, x.device)
        if key not in self._known:
            with torch.inference_mode(False):  # what is kept must serve everywhere
                c = self._each(x.new_empty(1), torch.tensor([sigma], dtype=torch.float64))
                self._known[key] = Coefficients(*(value.squeeze() for value in c))
        c = self._known[key]
        return c._replace(noise=c.noise.expand(x.shape[0]))
