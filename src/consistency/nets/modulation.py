"""How does a residual block hear of noise level and class? Each changes what the block normalises.

None has parameters: the block owns the linear layer that makes `vectors` vectors of its embedding, so that
weights keep their names whichever is chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from consistency.errors import positive
from consistency.nets.layers import at_least_float32, normalise_axis


class Modulation(Protocol):
    """(norm, h [B, C, H, W], embedding [B, vectors C, 1, 1]) -> norm(h), modulated."""

    vectors: ClassVar[int]  # of C entries each, made of the embedding

    def __call__(self, norm: Callable[[Tensor], Tensor], h: Tensor, embedding: Tensor) -> Tensor:
        """Features [B, C, H, W]."""
        ...


@dataclass(frozen=True)
class Added:
    """norm(h + shift): DDPM's (2006.11239), and EDM's for DDPM++ and NCSN++."""

    vectors: ClassVar[int] = 1

    def __call__(self, norm: Callable[[Tensor], Tensor], h: Tensor, embedding: Tensor) -> Tensor:
        """Features [B, C, H, W]."""
        return norm(h + embedding)


@dataclass(frozen=True)
class ScaleShift:
    """norm(h) (1 + scale) + shift: adaptive group normalisation (2105.05233, section 3)."""

    vectors: ClassVar[int] = 2

    def __call__(self, norm: Callable[[Tensor], Tensor], h: Tensor, embedding: Tensor) -> Tensor:
        """Features [B, C, H, W]."""
        scale, shift = embedding.chunk(2, 1)
        return norm(h) * (1 + scale) + shift


@dataclass(frozen=True)
class DoublyNormalised:
    """norm(h) pn(1 + scale) + pn(shift): adaptive double normalisation (2410.11081, section 4.1).

    There, consistency training diverges without pn, which takes the length from both vectors. The 1 only sets
    where the linear layer's bias begins: an untrained block scales by about 1, and its output changes about
    half as fast with the noise level as under pn(scale).

    Args:
        eps: added to mean squares. A shift near 0 moves by up to 1/√eps of what its vector does.
    """

    eps: float = 1e-4

    vectors: ClassVar[int] = 2

    def __post_init__(self) -> None:
        positive("net.modulation", eps=self.eps)

    def __call__(self, norm: Callable[[Tensor], Tensor], h: Tensor, embedding: Tensor) -> Tensor:
        """Features [B, C, H, W]."""
        scale, shift = embedding.chunk(2, 1)
        return norm(h) * pixel_norm(1 + scale, self.eps) + pixel_norm(shift, self.eps)


def pixel_norm(v: Tensor, eps: float) -> Tensor:
    """v [B, C, ...] with a mean square of 1 along the channels, but for eps (1710.10196, section 4.2)."""
    return normalise_axis(at_least_float32(v), 1, eps).to(v.dtype)
