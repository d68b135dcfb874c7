"""The codec of points, which is the identity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from consistency.codec.codec import Shape
from consistency.errors import UserError
from consistency.schedule.draws import Draws


@dataclass(frozen=True)
class Points:
    """Points [B, D], the identity."""

    @property
    def visible(self) -> bool:
        """False: u are not images."""
        return False

    @property
    def range(self) -> tuple[float, float]:
        """Infinite: there are no bounds."""
        return -math.inf, math.inf

    def encoded(self, shape: Sequence[int]) -> Shape:
        """(D,), unchanged."""
        if len(shape) != 1:
            raise UserError(f"data.codec=Points is for points [D], and samples are {list(shape)}")
        return tuple(shape)

    def decoded(self, shape: Sequence[int]) -> Shape:
        """(D,), unchanged."""
        return self.encoded(shape)

    def encode(self, u: Tensor, draws: Draws | None = None) -> Tensor:
        """u itself."""
        return u

    def decode(self, z: Tensor) -> Tensor:
        """z itself."""
        return z

    def program(self) -> None:
        """None: z are points already."""

    def describe(self) -> dict[str, Any]:
        """The name only: there are no options."""
        return {"codec": "Points"}
