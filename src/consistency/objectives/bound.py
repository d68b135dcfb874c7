"""How long may a tangent be? Each bound is g [B, ...] -> like g (2410.11081, section 4.1)."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from consistency.errors import positive
from consistency.tensor import expand, squared_norm


class Bound(Protocol):
    """g -> g, shorter."""

    def __call__(self, g: Tensor) -> Tensor:
        """The tangent of each sample."""
        ...


@dataclass(frozen=True)
class Unbounded:
    """g as it is."""

    def __call__(self, g: Tensor) -> Tensor:
        """g."""
        return g


@dataclass(frozen=True)
class Normalised:
    """g / (‖g‖ + c), over all entries of a sample: the direction of large tangents, small ones as they are.

    Args:
        c: length below which a tangent counts as small; the paper's 0.1.
    """

    c: float = 0.1

    def __post_init__(self) -> None:
        positive("bound", c=self.c)

    def __call__(self, g: Tensor) -> Tensor:
        """g of norm below 1."""
        return g / expand(squared_norm(g).sqrt() + self.c, g)


@dataclass(frozen=True)
class Clipped:
    """Each entry of g clipped.

    Args:
        limit: to [-limit, limit].
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        positive("bound", limit=self.limit)

    def __call__(self, g: Tensor) -> Tensor:
        """g within the limit."""
        return g.clamp(-self.limit, self.limit)
