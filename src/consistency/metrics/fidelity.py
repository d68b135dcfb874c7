"""How close are the features of samples to those of data? The Fréchet distance, in float64.

FD = ‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^{1/2}) of the features' moments (1706.08500, eq. 6).
It is FID in Inception's features only; in others it is called FD(name of the features).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from consistency.errors import UserError
from consistency.metrics.features import Extractor, Seen
from consistency.watch import tick

BLOCK = 4096  # samples in float64 at a time


class Moments(NamedTuple):
    """Mean and covariance of features, in float64."""

    mean: Tensor  # [d]
    cov: Tensor  # [d, d], of n - 1 degrees of freedom

    def to(self, device: torch.device | str) -> "Moments":
        """The same on another device."""
        return Moments(self.mean.to(device), self.cov.to(device))


def feature_moments(features: Tensor) -> Moments:
    """Of features [n, d], n at least 2; block by block, so that n of them never lie there in float64."""
    if len(features) < 2:
        raise UserError(f"a distance needs at least 2 real and 2 generated images, not {len(features)}")
    blocks = features.split(BLOCK)
    mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(features)
    cov = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for block in blocks:
        away = block.double() - mean
        cov.addmm_(away.T, away)
        tick()
    return Moments(mean, cov / (len(features) - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Fréchet distance of two Gaussians."""
    values, vectors = torch.linalg.eigh(a.cov)
    half = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(half @ b.cov @ half).clamp(min=0).sqrt().sum()
    shift = (a.mean - b.mean).square().sum()
    return (shift + a.cov.trace() + b.cov.trace() - 2 * cross).item()


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to features a [n, d] and b [m, d], n and m at least 2."""
    return frechet_distance(feature_moments(a), feature_moments(b))


def between_halves(features: Tensor, repeats: int = 5, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the distance between random halves of features [n, d].

    What a perfect model would score with half as many samples against the other half of the data.
    """
    generator = torch.Generator().manual_seed(seed)
    splits = [torch.randperm(len(features), generator=generator).tensor_split(2) for _ in range(repeats)]
    values = []
    for one, other in splits:
        values.append(frechet(features[one], features[other]))
        tick(1)
    spread = torch.tensor(values, dtype=torch.float64)
    return spread.mean().item(), spread.std(correction=0).item()


def see(images: Tensor, extractor: Extractor) -> Seen:
    """What the extractor sees of uint8 images [B, C, H, W]: computed where it is, kept on the CPU."""
    device = device_of(extractor)
    with plainly(device):
        images = images.to(device)
        parts = []
        for some in images.split(extractor.largest(images)):
            seen = extractor.see(some)
            parts.append(Seen(seen.features.cpu(), None if seen.logits is None else seen.logits.cpu()))
            tick()
    return parts[0] if len(parts) == 1 else merge_moments(parts)


def merge_moments(parts: list[Seen]) -> Seen:
    """One after the other."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Seen(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)


def features(images: Tensor, extractor: Extractor, batch: int = 256) -> Tensor:
    """Features of uint8 images [n, C, H, W]: float32 [n, d]."""
    return merge_moments([see(part, extractor) for part in images.split(batch)]).features


def device_of(extractor: Extractor) -> torch.device:
    """Where it computes."""
    return next(chain(extractor.parameters(), extractor.buffers()), torch.empty(0)).device


@contextmanager
def plainly(device: torch.device) -> Iterator[None]:
    """No autocast, which moves distances by 1e-3, no gradients, and no inference tensors that outlive us."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
