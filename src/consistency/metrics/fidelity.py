"""The Fréchet distance between the features of samples and of data, in float64.

FD = ‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^{1/2}) of the features' moments (1706.08500, eq. 6).
With Inception's features it is FID; with others it is called FD(name of the features).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from consistency.errors import UserError
from consistency.watch import tick

BLOCK = 4096  # samples converted to float64 at a time


class Moments(NamedTuple):
    """Mean and covariance of features, in float64."""

    mean: Tensor  # [d]
    cov: Tensor  # [d, d], unbiased (divided by n - 1)

    def to(self, device: torch.device | str) -> "Moments":
        """The same on another device."""
        return Moments(self.mean.to(device), self.cov.to(device))


@dataclass(frozen=True, eq=False)
class FeatureReference:
    """The features of the data.

    Args:
        features: float32 [n, d], of all images.
        moments: of the features.
        floor: Fréchet distance between random halves of the features.
        sha256: of the images.
    """

    features: Tensor
    moments: Moments
    floor: float
    sha256: str

    def __len__(self) -> int:
        return len(self.features)


def feature_moments(features: Tensor) -> Moments:
    """Moments of features [n, d], computed in blocks so that not all features are in float64 at once.

    Raises:
        UserError: n is less than 2.
    """
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
    """Mean and standard deviation, over random splits, of the distance between the halves of features [n, d].

    This is the score of a perfect model with n/2 samples against n/2 samples of the data.
    """
    generator = torch.Generator().manual_seed(seed)
    splits = [torch.randperm(len(features), generator=generator).tensor_split(2) for _ in range(repeats)]
    values = []
    for one, other in splits:
        values.append(frechet(features[one], features[other]))
        tick(1)
    spread = torch.tensor(values, dtype=torch.float64)
    return spread.mean().item(), spread.std(correction=0).item()
