"""How far apart are two images? Each distance is (a [B, ...], b [B, ...]) -> [B].

L1 and squared L2 are means over the entries (2303.01469's code); the pseudo-Huber distance is of the norm of
the whole image (2310.14189), not a mean of element-wise terms: the two differ by orders of magnitude.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from consistency.errors import within
from consistency.tensor import squared_norm


class Distance(Protocol):
    """(a, b) -> [B]."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each sample."""
        ...


@dataclass(frozen=True)
class SquaredL2:
    """Mean of the squared differences."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each sample, [B]."""
        return (a - b).flatten(1).square().mean(1)


@dataclass(frozen=True)
class L1:
    """Mean of the absolute differences."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each sample, [B]."""
        return (a - b).flatten(1).abs().mean(1)


@dataclass(frozen=True)
class PseudoHuber:
    """√(‖a - b‖² + c²) - c with c = scale √d for d entries a sample (2310.14189, section 3.3).

    Args:
        scale: c/√d; the paper's 0.00054 makes c = 0.03 on CIFAR-10.
    """

    scale: float = 0.00054

    def __post_init__(self) -> None:
        within("distance", 1e-9, 1e6, scale=self.scale)  # at 0 the gradient of √0 is NaN

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each sample, [B]."""
        c2 = self.scale**2 * a[0].numel()
        square = squared_norm(a - b)
        return square / ((square + c2).sqrt() + math.sqrt(c2))  # = √(square + c²) - c without cancellation
