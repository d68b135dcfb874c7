"""What was done about y = A x + noise before networks. A baseline is (A, y, some) -> images [B, C, H, W].

`some` are images of the data, [M, C, H, W] and at least two, to learn from.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import within
from consistency.sampling.operators import LinearOperator, consistent


class Baseline(Protocol):
    """(A, y, some) -> [B, C, H, W]."""

    def __call__(self, A: LinearOperator, y: Tensor, some: Tensor) -> Tensor:
        """Images that explain measurements y [B, ...]."""
        ...


@dataclass(frozen=True)
class PseudoInverse:
    """A⁺y: of all images that fit best, the one with the least contrast."""

    def __call__(self, A: LinearOperator, y: Tensor, some: Tensor) -> Tensor:
        """Nothing is learned."""
        return A.pseudo_inverse(y)


@dataclass(frozen=True)
class Wiener:
    """The best estimate that is linear in y, for the mean and the covariance of the data.

    μ + ΣA'(AΣA' + n²)⁻¹(y - Aμ), with the covariance Σ of all pixels of the data.

    Args:
        pixels: times channels, at most; larger images are left to the others.
    """

    pixels: int = 4096

    def __post_init__(self) -> None:
        within("task.baselines.wiener", 1, 2**15, pixels=self.pixels)  # squared in float64: 8 GiB

    def __call__(self, A: LinearOperator, y: Tensor, some: Tensor) -> Tensor:
        """Solved once for all measurements, in float64; NaN where images are too large."""
        shape = some.shape[1:]
        if shape.numel() > self.pixels:
            return y.new_full((len(y), *shape), torch.nan)
        x = some.double().to(y.device)
        mean = x.mean(0, keepdim=True)
        root = (x - mean).flatten(1) / (len(x) - 1) ** 0.5  # Σ = root' root
        sigma = (root.T @ root).unflatten(0, shape)
        seen = A.forward(sigma.movedim(-1, 0)).flatten(1)  # [pixels, measurements]: ΣA'
        both = A.forward(seen.T.unflatten(1, shape)).flatten(1)  # AΣA'
        both = both + A.noise**2 * torch.eye(len(both), dtype=both.dtype, device=both.device)
        away = (y.double() - A.forward(mean)).flatten(1)
        found = away @ torch.linalg.pinv(both, hermitian=True, rtol=1e-9) @ seen.T
        return (mean + found.unflatten(1, shape)).to(y.dtype)


@dataclass(frozen=True)
class TotalVariation:
    """The image of least total variation that fits y: exactly, or within its noise.

    Minimises Σ|∇u|/b + ‖A u - y‖²/2n² by the primal-dual method (Chambolle and Pock 2011, algorithm 1). b is
    the mean |∇x| of the data, for which this is the likeliest image if gradients follow Laplace's law.

    Args:
        steps: of the method.
    """

    steps: int = 300

    def __post_init__(self) -> None:
        within("task.baselines.total-variation", 1, 1_000_000, steps=self.steps)

    def __call__(self, A: LinearOperator, y: Tensor, some: Tensor) -> Tensor:
        """From A⁺y on."""
        b = image_gradient(some).square().sum(0).sqrt().mean().item()
        t, s = b / 4, 1 / (2 * b)  # their product 1/8 = 1/‖∇‖² is the largest that converges
        u = ahead = A.pseudo_inverse(y)
        p = torch.zeros_like(image_gradient(u))
        for _ in range(self.steps):
            p = p + s * image_gradient(ahead)
            p = p / (p.square().sum(0).sqrt() * b).clamp_min(1.0)
            before, u = u, consistent(A, u - t * adjoint_gradient(p), y, t**0.5)
            ahead = 2 * u - before
        return u


def image_gradient(x: Tensor) -> Tensor:
    """Differences to the right and downwards, 0 at the far edges: [B, C, H, W] -> [2, B, C, H, W]."""
    right = torch.nn.functional.pad(x.diff(dim=-1), (0, 1))
    down = torch.nn.functional.pad(x.diff(dim=-2), (0, 0, 0, 1))
    return torch.stack([right, down])


def adjoint_gradient(p: Tensor) -> Tensor:
    """The adjoint of `image_gradient`, minus the divergence: [2, B, C, H, W] -> [B, C, H, W]."""
    right, down = p[0][..., :-1], p[1][..., :-1, :]
    pad = torch.nn.functional.pad
    across = pad(right, (1, 0)) - pad(right, (0, 1))
    return across + pad(down, (0, 0, 1, 0)) - pad(down, (0, 0, 0, 1))
