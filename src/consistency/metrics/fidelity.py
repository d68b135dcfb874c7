"""How close are the features of samples to those of data? The Fréchet distance, in float64.

FD = ‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^{1/2}) of the features' moments (1706.08500, eq. 6).
It is FID in Inception's features only; in others it is called FD(name of the features).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.metrics.features import Extractor


class FrechetDistance:
    """Streaming distance between real and generated images, summed over processes.

    A plain object: a module that holds it neither saves nor averages the extractor. Each process shows
    its own images; compute() adds up all that were shown anywhere, so shards may be uneven.

    Args:
        extractor: images -> features.
    """

    def __init__(self, extractor: Extractor) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.extractor = extractor
        self._metric = FrechetInceptionDistance(InDoublePrecision(extractor), reset_real_features=False)

    def to(self, device: torch.device | str) -> "FrechetDistance":
        """Move the extractor and the sums."""
        self._metric.to(device)
        return self

    def update_real(self, images: Tensor) -> None:
        """See real uint8 images [B, C, H, W]; they are kept for good."""
        self._update(images, real=True)

    def update_real_features(self, seen: Tensor) -> None:
        """See real images by their features [B, d], where those are at hand."""
        metric = self._metric
        seen = seen.to(metric.device, metric.real_features_sum.dtype)
        metric.real_features_sum += seen.sum(0)
        metric.real_features_cov_sum += seen.T @ seen
        metric.real_features_num_samples += len(seen)

    def update_fake(self, images: Tensor) -> None:
        """See generated uint8 images [B, C, H, W]."""
        self._update(images, real=False)

    def compute(self) -> float:
        """The distance, over all processes; needs at least two images of both kinds."""
        try:
            with plainly(self._metric.device):
                return self._metric.compute().item()
        except RuntimeError as error:
            if "More than one sample" not in str(error):
                raise
            name = self.extractor.metric_name
            raise UserError(f"{name} needs at least 2 real and 2 generated images") from error

    def reset_fake(self) -> None:
        """Forget the generated images."""
        with plainly(self._metric.device):
            self._metric.reset()

    def _update(self, images: Tensor, real: bool) -> None:
        with plainly(self._metric.device):
            self._metric.update(images.to(self._metric.device), real=real)


class InDoublePrecision(nn.Module):
    """An extractor whose features come in float64, so that nothing later is rounded to less."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor, self.num_features = extractor, extractor.num_features

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, d] in float64."""
        return self.extractor(images).double()


@contextmanager
def plainly(device: torch.device) -> Iterator[None]:
    """No autocast, which moves distances by 1e-3, no gradients, and no inference tensors among the sums."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def features(images: Tensor, extractor: Extractor, batch: int = 256) -> Tensor:
    """Features of uint8 images [B, C, H, W]: float64 [B, d] on the CPU, computed where the extractor is."""
    device = next(chain(extractor.parameters(), extractor.buffers()), torch.empty(0)).device
    with plainly(device):
        return torch.cat([extractor(part.to(device)).double().cpu() for part in images.split(batch)])


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to features a [n, d] and b [m, d], n and m at least 2."""
    a, b = a.double(), b.double()
    cov_a, cov_b = a.T.cov().reshape(a.shape[1], -1), b.T.cov().reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    half = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(half @ cov_b @ half).clamp(min=0).sqrt().sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return (shift + cov_a.trace() + cov_b.trace() - 2 * cross).item()


def half_floor(images: Tensor, extractor: Extractor, repeats: int = 5, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the distance between random halves of the real images.

    What a perfect model would score with half as many samples against the other half of the data.
    """
    return between_halves(features(images, extractor), repeats, seed)


def between_halves(seen: Tensor, repeats: int = 5, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the distance between random halves of features [B, d]."""
    generator = torch.Generator().manual_seed(seed)
    splits = [torch.randperm(len(seen), generator=generator).tensor_split(2) for _ in range(repeats)]
    values = torch.tensor([frechet(seen[one], seen[other]) for one, other in splits], dtype=torch.float64)
    return values.mean().item(), values.std(correction=0).item()
