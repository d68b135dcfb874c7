"""Nearest training images of samples, and the share of samples that are copies of them."""

from typing import NamedTuple

import torch
from torch import Tensor

RATIO = 1 / 3  # of the distances to the nearest and second nearest image; a copy is below it (2310.02664)
ROWS = 2048  # training images compared at a time


class Neighbours(NamedTuple):
    """The nearest training images of n samples, by Euclidean distance of their pixels."""

    index: Tensor  # long [n, k], the nearest first
    distance: Tensor  # float64 [n, k], root mean square over pixels

    @property
    def memorised(self) -> float:
        """Share of samples whose nearest training image is less than a third as far as the second nearest.

        This is the criterion of 2310.02664. Copies of an image that the data contain twice are not counted.
        """
        first, second = self.distance[:, 0], self.distance[:, 1]
        return (first < RATIO * second).double().mean().item()


def neighbours(samples: Tensor, real: Tensor, k: int = 4) -> Neighbours:
    """The k nearest of real [m, ...], m >= 2, for each of samples [n, ...], in the units of both."""
    flat, k = samples.flatten(1).double(), min(k, len(real))  # float32 would give copies a distance above 0
    parts = [torch.cdist(flat, some.flatten(1).double()) for some in real.split(ROWS)]
    distance, index = torch.cat(parts, 1).topk(k, dim=1, largest=False)
    return Neighbours(index, distance / flat.shape[1] ** 0.5)
