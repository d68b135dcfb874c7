"""The few tensor idioms that every part of the house shares.

Shapes: x is [B, C, H, W] for images and [B, D] for points; σ, t and r are [B] in float64 until they meet x.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class Terms(NamedTuple):
    """What an objective returns, one entry per sample: the weighted loss, and the σ it was measured at."""

    loss: Tensor  # [B]
    sigma: Tensor  # [B]


class MapTerms(NamedTuple):
    """What an objective of flow maps returns, one entry per sample."""

    loss: Tensor  # [B]
    sigma: Tensor  # [B], t
    s: Tensor  # [B], the second level


def expand(scalar: Tensor, x: Tensor) -> Tensor:
    """Cast [B] to the dtype and device of x and append the axes that make it broadcast over x [B, ...]."""
    return scalar.to(device=x.device, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def level(sigma: float, x: Tensor) -> Tensor:
    """σ for each sample of x, float64 [B]."""
    return torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)


def perturb(x: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
    """x_σ = x + σ z: the variance-exploding perturbation, in σ [B], for unit noise z shaped like x."""
    return x + expand(sigma, x) * z


def geometric(low: float, high: float, n: int) -> Tensor:
    """n levels from low to high, both included, evenly spaced in their logarithm; float64."""
    return torch.logspace(0, 1, n, base=high / low, dtype=torch.float64) * low


def squared_norm(x: Tensor) -> Tensor:
    """Squared Euclidean norm of each sample over all of its entries: [B, ...] -> [B]."""
    return x.flatten(1).square().sum(1)


def seed_dropout(seed: int, device: torch.device) -> None:
    """Start the global random state that dropout draws from, where x lives.

    Not by torch.manual_seed, which takes milliseconds for every kind of device that is not there.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def same_dropout(device: torch.device) -> Iterator[None]:
    """Rewind the global random state on leaving, so that the next forward draws the same dropout masks.

    Both the CPU's and `device`'s generator are kept: a mask is drawn where its tensor lives, and sharing
    only one of the two is the mistake of most implementations.
    """
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    yield
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)


def all_finite(x: Tensor) -> bool:
    """Whether real numbers are without NaN and infinity; nothing of the size of x is allocated."""
    return x.numel() == 0 or all(bound.isfinite().item() for bound in x.detach().aminmax())


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes, dtypes and bytes, whatever the order and the device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)  # no copy: data may be huge
    return digest.hexdigest()
