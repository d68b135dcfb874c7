"""How much does a large error count? Each is the mean square error d [B] of n entries -> loss [B]."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from consistency.errors import positive, within


class Power(Protocol):
    """(d [B], n) -> [B]."""

    def __call__(self, d: Tensor, n: int) -> Tensor:
        """Loss of each sample."""
        ...


@dataclass(frozen=True)
class Squared:
    """d itself."""

    def __call__(self, d: Tensor, n: int) -> Tensor:
        """d."""
        return d


@dataclass(frozen=True)
class Adaptive:
    """e / sg(e + c)^p of the mean square error, e = d (2512.15657).

    The gradient is that of the 2(1 - p)-th power of the error's norm: p = 1/2 is a pseudo-Huber loss.

    Args:
        p: from 0, no weight, to 1, where all samples count alike.
        c: keeps the weight finite.
    """

    p: float = 0.75
    c: float = 1e-3

    def __post_init__(self) -> None:
        within("power", 0, 1, p=self.p)
        positive("power", c=self.c)

    def __call__(self, d: Tensor, n: int) -> Tensor:
        """d / sg(d + c)^p."""
        return d / (d.detach() + self.c) ** self.p


@dataclass(frozen=True)
class AdaptiveSum(Adaptive):
    """The same of the sum of squares, e = n d (2505.13447, section 4.3; 2512.02012)."""

    def __call__(self, d: Tensor, n: int) -> Tensor:
        """n d / sg(n d + c)^p."""
        return super().__call__(n * d, n)
