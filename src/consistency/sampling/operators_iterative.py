"""Operators of which only A and A' are known: conjugate gradients do the rest. Sparse-view tomography."""

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from consistency.errors import positive, within
from consistency.sampling.operators import Operator, Shape


class Iterative(Operator):
    """An operator that is inverted by conjugate gradients, in float64.

    Args:
        noise: standard deviation of what was added to A x.
        steps: of conjugate gradients, at most.
        tolerance: at which they stop.
    """

    def __init__(self, noise: float = 0.0, steps: int = 500, tolerance: float = 1e-12) -> None:
        super().__init__(noise)
        within("operator", 1, 1_000_000, steps=steps)
        positive("operator", tolerance=tolerance)
        self.steps, self.tolerance = steps, tolerance

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A'y."""

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """The smallest solution of A'A x = A'y, which conjugate gradients from 0 find."""
        right = self.adjoint(y.double())
        return self._solve(lambda x: self.adjoint(self.forward(x)), right).to(y.dtype)

    def proximal(self, x: Tensor, y: Tensor, gamma: float) -> Tensor:
        """The solution of (I + γA'A)u = x + γA'y."""
        right = x.double() + gamma * self.adjoint(y.double())
        return self._solve(lambda u: u + gamma * self.adjoint(self.forward(u)), right).to(x.dtype)

    def _solve(self, matrix: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
        return conjugate_gradients(matrix, right, self.steps, self.tolerance)


class Radon(Iterative):
    """Mean brightness along parallel rays from a few angles: y [B, C, angles, detectors].

    Each pixel's centre is cast onto the line of detectors, one pixel apart, and its value is shared between
    the two nearest. Sums are divided by H.

    Args:
        shape: (C, H, W) of an image.
        angles: evenly spaced over 180 degrees.
        noise: standard deviation of what was added to A x.
        steps: of conjugate gradients, at most.
    """

    def __init__(self, shape: Shape, angles: int, noise: float = 0.0, steps: int = 500) -> None:
        super().__init__(noise, steps)
        within("operator", 1, 10_000, angles=angles)
        _, self.H, self.W = shape
        self.angles = angles
        self.detectors = math.ceil(math.hypot(self.H, self.W)) + 2
        self.place, self.weight = self._cast()

    def _cast(self) -> tuple[Tensor, Tensor]:
        """Detector below each pixel at each angle, long [angles, HW], and what the next one gets, float64."""
        across, down = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (self.W, self.H))
        theta = torch.arange(self.angles, dtype=torch.float64)[:, None, None] * torch.pi / self.angles
        s = across * theta.cos() + down[:, None] * theta.sin() + (self.detectors - 1) / 2
        return s.floor().long().flatten(1), (s - s.floor()).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """The sums, a row per angle."""
        pixels = x.flatten(2)[:, :, None].expand(-1, -1, self.angles, -1)
        y = x.new_zeros(*pixels.shape[:3], self.detectors)
        for place, weight in self._shares(x):
            y.scatter_add_(-1, place.expand_as(pixels), weight * pixels)
        return y / self.H

    def adjoint(self, y: Tensor) -> Tensor:
        """What the rays through a pixel measured, added up."""
        parts = [
            weight * y.gather(-1, place.expand(*y.shape[:2], -1, -1)) for place, weight in self._shares(y)
        ]
        return sum(parts).sum(2).unflatten(-1, (self.H, self.W)) / self.H  # type: ignore[union-attr]

    def _shares(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both detectors that a pixel meets, and its share in each, where x is."""
        place, weight = self.place.to(x.device), self.weight.to(x)
        return [(place, 1 - weight), (place + 1, weight)]


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], right: Tensor, steps: int, tolerance: float
) -> Tensor:
    """x [B, ...] with M x = b for a symmetric M without negative eigenvalues, each sample by itself, from 0.

    Args:
        matrix: M.
        right: b [B, ...], in the range of M.
        steps: at most.
        tolerance: of ‖M x - b‖/‖b‖, at which a sample is left as it is.
    """
    x, r = torch.zeros_like(right), right
    p, size = r, inner_products(r, r)
    enough = tolerance**2 * size
    for _ in range(steps):
        going = size > enough  # a sample that has arrived would divide by 0
        if not going.any():
            break
        q = matrix(p)
        step = torch.where(going, size / inner_products(p, q).where(going, 1.0), 0.0)
        x, r = x + step * p, r - step * q
        before, size = size, inner_products(r, r)
        p = r + torch.where(going, size / before.where(going, 1.0), 0.0) * p
    return x


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, [B, 1, ...]."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))
