"""What is exported: a sampler whose σ are baked in, and the bare network for those who write their own loop.

Both are plain modules of float32 tensors. The functions of σ are evaluated once, in float64, and kept as
numbers, so that a program holds the network and a few multiplications.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.model.condition import given_label
from consistency.model.maps import Map
from consistency.model.precond import Precond
from consistency.sampling.samplers import visits


class Sampler(nn.Module):
    """Multistep consistency sampling (2303.01469, algorithm 1) as a function of its noise.

    Args:
        f: a consistency function.
        sigmas: K levels, falling, with a network call each; the first is where sampling begins.
        sigma_min: ε; levels below are raised to it.
        decoder: of what f makes; None for pixels and points.
    """

    skip: Tensor
    out: Tensor
    inp: Tensor
    noise: Tensor
    added: Tensor

    def __init__(
        self, f: Map, sigmas: Sequence[float], sigma_min: float, decoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        if not sigmas:
            raise UserError("a sampler needs at least one σ")
        self.net, self.decoder = f.net, decoder
        levels, added = torch.tensor(visits(sigmas, sigma_min), dtype=torch.float64).T
        for name, values in {**f.precond(levels)._asdict(), "added": added}.items():
            self.register_buffer(name, values.float())

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images [B, ...] from unit noise z [B, K, ...], of which call k adds z[:, k]; label [B] or None."""
        x = torch.zeros_like(z[:, 0])
        for k in range(len(self.added)):
            x = x + self.added[k] * z[:, k]
            noise = self.noise[k].expand(x.shape[0])  # len(x) would be a constant in an export
            F = self.net(self.inp[k] * x, noise, given_label(label))
            x = self.skip[k] * x + self.out[k] * F
        return x if self.decoder is None else self.decoder(x)


class Network(nn.Module):
    """F(c_in x, c_noise): D or f is c_skip x + c_out F, with coefficients that the model's file lists by σ.

    Args:
        f: any denoiser.
    """

    def __init__(self, f: Map) -> None:
        super().__init__()
        self.net = f.net

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """F, like x, of the scaled x [B, ...], c_noise [B] and label [B] or None."""
        return self.net(x, noise, given_label(label))


def coefficients(precond: Precond, sigmas: Sequence[float]) -> list[dict[str, float]]:
    """σ, c_skip, c_out, c_in and c_noise of each level, as numbers."""
    c = precond(torch.tensor(sigmas, dtype=torch.float64))
    rows = zip(*(values.tolist() for values in c), strict=True)
    return [
        {"sigma": sigma, **dict(zip(c._fields, row, strict=True))}
        for sigma, row in zip(sigmas, rows, strict=True)
    ]
