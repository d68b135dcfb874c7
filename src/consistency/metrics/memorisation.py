"""Are samples copies of the data?"""

from typing import NamedTuple

import torch
from torch import Tensor

RATIO = 1 / 3  # to the second nearest, below which a sample counts as a copy
ROWS = 2048  # training images compared at a time


class Neighbours(NamedTuple):
    """The nearest training images of n samples, by Euclidean distance of their pixels."""

    index: Tensor  # long [n, k], the nearest first
    distance: Tensor  # float64 [n, k], root mean square over pixels

    @property
    def memorised(self) -> float:
        """Share of samples less than a third as far from their nearest training image as from the next.

        The criterion of 2310.02664; images that stand in the data twice hide copies of them.
        """
        first, second = self.distance[:, 0], self.distance[:, 1]
        return (first < RATIO * second).double().mean().item()


def neighbours(samples: Tensor, real: Tensor, k: int = 4) -> Neighbours:
    """The k nearest of real [m, ...], m >= 2, for each of samples [n, ...]; distances in the unit of both."""
    flat, k = samples.flatten(1).double(), min(k, len(real))  # float32 would not see that a copy is one
    parts = [torch.cdist(flat, some.flatten(1).double()) for some in real.split(ROWS)]
    distance, index = torch.cat(parts, 1).topk(k, dim=1, largest=False)
    return Neighbours(index, distance / flat.shape[1] ** 0.5)
