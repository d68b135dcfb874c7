"""The interface of codecs: data u, for people and metrics, <-> z, the inputs and outputs of networks.

Data u are uint8 images [B, C, H, W], or points [B, D] in floating point. z is float32 [B, ...]; noise levels
σ are in units of z.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from consistency.schedule.draws import Draws

Shape = tuple[int, ...]


class Codec(Protocol):
    """u <-> z. A frozen value: two codecs with equal `describe()` are the same.

    A codec of another space is one class with these members, chosen by `data.codec`: training, samples,
    metrics and exports take it from there. What works on pixels alone refuses it by name
    (`pixels.pixels_of`).
    """

    @property
    def visible(self) -> bool:
        """Whether u are images that a person can look at, rather than points."""
        ...

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest valid value of z, to which editing clips; infinite without bounds."""
        ...

    def encoded(self, shape: Sequence[int]) -> Shape:
        """The shape of z of one sample, for the shape of u.

        Raises:
            UserError: this codec takes no such data.
        """
        ...

    def decoded(self, shape: Sequence[int]) -> Shape:
        """The shape of u of one sample, for the shape of z.

        Raises:
            UserError: this codec makes no such z.
        """
        ...

    def encode(self, u: Tensor, draws: Draws | None = None) -> Tensor:
        """Data u -> z, on the device of u.

        Args:
            u: uint8 images [B, C, H, W] or points [B, D].
            draws: random numbers, for a codec whose z is drawn; None for the mean of z.
        """
        ...

    def decode(self, z: Tensor) -> Tensor:
        """z -> u on the device of z: images rounded to the nearest of the 256 levels, or points."""
        ...

    def program(self) -> nn.Module | None:
        """A module to export after a sampler: z -> images x in [-1, 1], u = 127.5 x + 127.5, or z -> points.

        `torch.export` must be able to trace it. None for `Pixels` and `Points`, which `describe` defines
        completely.

        Raises:
            UserError: this codec cannot be exported.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that z depends on as plain data, weights by hash. The key `codec` is the class name."""
        ...
