"""The distance of a few samples from the data along the principal axes of the data.

Along random directions a few images cannot be told from noise of the same variance, because nearly all
directions in pixel space are alike. Along principal axes the two differ by an order of magnitude.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from consistency.metrics.transport import transport_1d

AXES = 16
NUMBERS = 2**24  # size of the data that are used, as samples times coordinates


@dataclass(frozen=True, eq=False)
class Principal:
    """Data in coordinates along their principal axes.

    Args:
        mean: of the data [D], float64.
        axes: K orthonormal axes [D, K], float64; K = 0 if the data do not vary.
        data: their coordinates on the axes, about the mean [n, K].
    """

    mean: Tensor
    axes: Tensor
    data: Tensor

    @classmethod
    def of(cls, data: Tensor, axes: int = AXES) -> "Principal":
        """The first `axes` principal axes of data [n, ...], computed from at most `NUMBERS` numbers."""
        x = data[: max(NUMBERS // data[0].numel(), 2)].detach().cpu().double().flatten(1)
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh((x - mean) @ (x - mean).T)
        kept = [i for i in range(len(values))[-axes:] if values[i] > 1e-9 * values[-1] and values[i] > 0]
        directions = (x - mean).T @ (vectors[:, kept] / values[kept].sqrt())
        return cls(mean, directions, (x - mean) @ directions)

    @property
    def spread(self) -> float:
        """Root of the variance along all axes together, in units of the data; 0 where they do not vary."""
        return self.data.square().mean(0).sum().sqrt().item()

    def coordinates(self, samples: Tensor) -> Tensor:
        """Coordinates of samples [m, ...] on the axes, relative to the mean of the data, [m, K]."""
        return (samples.detach().cpu().double().flatten(1) - self.mean) @ self.axes

    def distance(self, coordinates: Tensor) -> float:
        """√(Σ W₂² over the axes) of samples from the data, in units of `spread`.

        0 for the data, 1 for samples that all equal the mean of the data; NaN if a sample is not finite.

        Args:
            coordinates: of the samples [m, K].
        """
        if not coordinates.isfinite().all():
            return math.nan
        return transport_1d(coordinates, self.data).sum().sqrt().item() / self.spread

    def share(self, coordinates: Tensor) -> float:
        """Variance of samples over all axes, relative to the data's; NaN if a sample is not finite."""
        return coordinates.var(0, correction=0).sum().item() / self.spread**2
