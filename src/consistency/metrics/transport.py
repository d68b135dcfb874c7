"""Wasserstein-2 distances between sets of points [n, ...], as vectors, in the unit of the points."""

from collections.abc import Callable

import torch
from torch import Tensor

from consistency.errors import UserError

LARGEST = 1000  # points in an exact assignment, whose cost grows with their cube


def sliced_wasserstein2(a: Tensor, b: Tensor, projections: int = 128, seed: int = 0) -> float:
    """√(mean over directions of W₂² of the projections), in float64, for a [n, ...] and b [m, ...].

    Directions come in orthonormal frames. If D divides `projections`, all frames are complete, and a shift of
    all points by δ has the distance ‖δ‖/√D exactly. In one dimension transport is exact for n ≠ m, too.

    Raises:
        UserError: the points have different dimensions.
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    if a.shape[1] != b.shape[1]:
        raise UserError(f"points of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared")
    frames = directions(a.shape[1], projections, seed).to(a.device)
    squares = torch.cat([transport_1d(a @ frame, b @ frame) for frame in frames])
    return squares[:projections].mean().sqrt().item()


def directions(dimension: int, count: int, seed: int) -> Tensor:
    """At least `count` random directions: orthonormal frames [frames, D, min(D, count)]."""
    width = min(dimension, count)
    generator = torch.Generator().manual_seed(seed)
    shape = (-(-count // width), dimension, width)
    return torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64)).Q


def transport_1d(a: Tensor, b: Tensor) -> Tensor:
    """W₂² of each column of a [n, P] and b [m, P]: sorted values are matched quantile by quantile.

    Between neighbouring multiples of 1/n and 1/m both quantile functions are constant; levels are counted
    in units of 1/(n m).
    """
    n, m = len(a), len(b)
    levels = torch.cat([torch.arange(n, device=a.device) * m, torch.arange(m, device=a.device) * n]).unique()
    widths = torch.diff(levels, append=levels.new_tensor([n * m])).double() / (n * m)
    gap = a.sort(0).values[levels // m] - b.sort(0).values[levels // n]
    return widths @ gap.square()


def transport_floor(sample: Callable[[int], Tensor], n: int, projections: int = 128, seed: int = 0) -> float:
    """Sliced distance between two independent samples of n points: the score of a perfect model."""
    return sliced_wasserstein2(sample(n), sample(n), projections, seed)


def wasserstein2(a: Tensor, b: Tensor) -> float:
    """Exact W₂ between two sets of equal size, at most 1000 points, by optimal assignment.

    Raises:
        UserError: the sets differ in size or are too large.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = a.flatten(1).double().cpu(), b.flatten(1).double().cpu()
    if len(a) != len(b) or len(a) > LARGEST:
        raise UserError(
            f"exact transport needs equally many points, at most {LARGEST}, not {len(a)} and {len(b)}"
        )
    costs = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    return float(costs[linear_sum_assignment(costs)].mean() ** 0.5)
