"""What every codec is: data u, which people and metrics see, <-> z, the inputs and outputs of networks.

Data u are uint8 images [B, C, H, W], or points [B, D] in floating point. z is float32
[B, ...] of unit noise level: σ is in its units.
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
        """What networks make -> u, on the device of z: images at the nearest of the 256 levels, or points."""
        ...

    def program(self) -> nn.Module | None:
        """What exports append to a sampler: z -> images in [-1, 1], u = 127.5 x + 127.5, or z -> points.

        `torch.export` must be able to trace it. None for `Pixels` and `Points`, of which
        `describe` holds everything.

        Raises:
            UserError: this codec cannot be exported.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """All that z depends on, as plain data: for a network its hash. `codec` is the name of the class."""
        ...
