"""Judges of samples: shown the data once, then samples by the sampler's name, then asked for numbers."""

from typing import Protocol

import torch
from torch import Tensor

from consistency.metrics.features import Extractor
from consistency.metrics.fidelity import FrechetDistance, between_halves, features
from consistency.metrics.transport import sliced_wasserstein2


class Judge(Protocol):
    """Compares samples with data, both as uint8 images [B, C, H, W] or as points [B, D]."""

    def begin(self, real: Tensor, device: torch.device) -> None:
        """See the data; called again for the same data, does nothing."""
        ...

    def update(self, name: str, samples: Tensor) -> None:
        """See some samples of the sampler `name`."""
        ...

    def compute(self) -> dict[str, float]:
        """Numbers by `metric/name`, over all processes, and forget the samples."""
        ...


class Fidelity:
    """Fréchet distance of every sampler: FID with Inception, FD(name) with any other extractor.

    The floor beside it is the distance between random halves of the data.

    Args:
        extractor: images -> features.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.distances: dict[str, FrechetDistance] = {}
        self.real: Tensor | None = None

    def begin(self, real: Tensor, device: torch.device) -> None:
        """Extract the features of the data, once."""
        if self.real is None:
            self.device = device
            self.real = features(real, self.extractor.to(device))
            self.floor = between_halves(self.real)[0]

    def update(self, name: str, samples: Tensor) -> None:
        """See some samples."""
        if name not in self.distances:
            self.distances[name] = self._distance()
        self.distances[name].update_fake(samples)

    def compute(self) -> dict[str, float]:
        """Distance of each sampler, and the floor."""
        metric = self.extractor.metric_name
        values = {f"{metric}/{name}": float(distance.compute()) for name, distance in self.distances.items()}
        for distance in self.distances.values():
            distance.reset_fake()
        return {**values, f"{metric}/floor": self.floor}

    def _distance(self) -> FrechetDistance:
        """A distance that has seen the data; on one process, for sums are taken over all."""
        distance = FrechetDistance(self.extractor).to(self.device)
        if self.real is not None and rank() == 0:
            distance.update_real_features(self.real)
        return distance


class Transport:
    """Sliced Wasserstein-2 distance of points, or of images seen as points.

    Images are measured in units of twice the standard deviation of the data's pixels: the data then have 1/2,
    as they have for networks. The floor is what a perfect model would score: as many of the data against as
    many others; where there are more samples than data, as many drawn from the data against all of them.

    Args:
        projections: directions averaged over.
    """

    def __init__(self, projections: int = 128) -> None:
        self.projections, self.samples = projections, {}
        self.real: Tensor | None = None

    def begin(self, real: Tensor, device: torch.device) -> None:
        """Keep the data."""
        if self.real is None:
            self.real = real.double().cpu()
            self.unit = 1.0 if real.is_floating_point() else 2 * self.real.std(correction=0).item()

    def update(self, name: str, samples: Tensor) -> None:
        """See some samples."""
        self.samples.setdefault(name, []).append(samples.double().cpu())

    def compute(self) -> dict[str, float]:
        """Distance of each sampler, and the floor at the same number of points."""
        assert self.real is not None
        made = {name: gathered(torch.cat(parts)) for name, parts in self.samples.items()}
        values = {name: self._distance(points) for name, points in made.items()}
        values["floor"] = self._distance(perfect(self.real, max(map(len, made.values()), default=0)))
        self.samples.clear()
        return {f"SW2/{name}": value for name, value in values.items()}

    def _distance(self, points: Tensor) -> float:
        assert self.real is not None
        real = self.real[-len(points) :]
        return sliced_wasserstein2(points, real, projections=self.projections) / self.unit


def perfect(real: Tensor, n: int, seed: int = 0) -> Tensor:
    """What a perfect model makes: the first n of the data, half at most; where n is more than all, draws."""
    if n <= len(real):
        return real[: min(n or len(real), len(real) // 2)]
    return real[torch.randint(len(real), (n,), generator=torch.Generator().manual_seed(seed))]


def rank() -> int:
    """This process among those that evaluate together."""
    return torch.distributed.get_rank() if distributed() else 0


def distributed() -> bool:
    """Whether there are several processes."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gathered(points: Tensor) -> Tensor:
    """The points of all processes, the same on each."""
    if not distributed():
        return points
    parts = [torch.empty(0)] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, points)
    return torch.cat(parts)
