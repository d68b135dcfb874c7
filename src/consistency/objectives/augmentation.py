"""Augmented training images, with the label of the augmentation as an input of the network.

Source: 2206.00364, appendix F.2, table 6.

What is learned is the distribution of the moved images given the label of the move, so sampling with a label
of zeros gives images that never were: the augmentation does not leak. The label has nine numbers, in the
order that EDM's published networks expect:

    0  mirrored left to right, 1       3, 4  rotation by φ: cos φ - 1, sin φ
    1  mirrored top to bottom, 1       5, 6  stretch n along the direction r: n cos r, n sin r
    2  enlargement n                   7, 8  translation: n_x, n_y

where each n ~ N(0, 1) is in units of the standard deviations below.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from consistency.errors import UserError
from consistency.nets.layers import at_least_float32
from consistency.schedule.draws import Draws

# The orthonormal wavelet "symlet 6" (Daubechies, 1992): halving undoes doubling.
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)


class Augmentation(Protocol):
    """(x, draws) -> images to learn, and a label of how they were made from x."""

    def __call__(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """Images [B, C, H, W], and labels [B, n] or None without augmentation."""
        ...


@dataclass(frozen=True)
class NoAugmentation:
    """The data as they are, points or images."""

    def __call__(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """x [B, ...], and no label."""
        return x, None


class Motion(NamedTuple):
    """Where each pixel of a moved image comes from, in pixels from the centre: matrix @ (x, y) + shift."""

    matrix: Tensor  # [B, 2, 2]
    shift: Tensor  # [B, 2]


class Moves(NamedTuple):
    """What is done to each image, in float64. Zero is nothing."""

    flip_x: Tensor  # [B], 0 or 1
    flip_y: Tensor  # [B], 0 or 1
    scale: Tensor  # [B], in units of scale_std
    angle: Tensor  # [B], radians
    stretch: Tensor  # [B], in units of stretch_std
    along: Tensor  # [B], radians
    shift: Tensor  # [B, 2], in units of shift_std

    def label(self) -> Tensor:
        """The nine numbers that a network is given, [B, 9]."""
        turn = self.angle.cos() - 1, self.angle.sin()
        stretch = self.stretch * self.along.cos(), self.stretch * self.along.sin()
        return torch.stack([self.flip_x, self.flip_y, self.scale, *turn, *stretch, *self.shift.unbind(1)], 1)

    def warped(self) -> Tensor:
        """Which images more than a flip is done to, bool [B]."""
        one = (self.scale != 0) | (self.angle != 0) | (self.stretch != 0)
        return one | (self.shift != 0).any(1)


@dataclass(frozen=True)
class NonLeaky:
    """EDM's augmentation of CIFAR-10.

    Args:
        p: probability of each part on its own.
        mirrored: probability of the flip left to right, whatever p is.
        upside_down: how often an image that is chosen is flipped top to bottom.
        scale_std: of the base-2 logarithm of the enlargement.
        angle_max: of the rotation, in half-turns.
        stretch_std: of the base-2 logarithm of the stretch, by which the other axis shrinks.
        stretch_turned: how often the axis of the stretch is random rather than x.
        shift_std: of the translation, in widths and heights of the image.
    """

    p: float = 0.12
    mirrored: float = 0.5
    upside_down: float = 0.5
    scale_std: float = 0.2
    angle_max: float = 1.0
    stretch_std: float = 0.2
    stretch_turned: float = 0.5
    shift_std: float = 0.125
    of_pixels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in [f.name for f in fields(self)]:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augmentation.{name}={getattr(self, name)} must lie between 0 and 1")

    def __call__(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] and labels [B, 9] in the dtype of x. Untouched images have labels of zeros."""
        if x.ndim != 4:
            raise UserError("augmentation=edm moves images, and these data are points: set augmentation=none")
        moves = self.drawn(x, draws)
        return moved(x, moves, self.motion(moves, *x.shape[2:])), moves.label().to(x.dtype)

    def drawn(self, x: Tensor, draws: Draws) -> Moves:
        """What to do to each image of x. The numbers drawn are as many whatever is done."""
        chance = [draws.uniform(len(x), x.device) for _ in range(10)]
        normal = draws.normal(x.new_empty(len(x), 4, dtype=torch.float64))
        happens = [(u < self.p).double() for u in chance[:5]]
        coin_x, coin_y, turned, angle, along = chance[5:]
        return Moves(
            flip_x=(coin_x < self.mirrored).double(),
            flip_y=happens[0] * (coin_y < self.upside_down),
            scale=happens[1] * normal[:, 0],
            angle=happens[2] * math.pi * self.angle_max * (2 * angle - 1),
            stretch=happens[3] * normal[:, 1],
            along=(turned < self.stretch_turned) * math.pi * (2 * along - 1),
            shift=happens[4][:, None] * normal[:, 2:],
        )

    def motion(self, moves: Moves, height: int, width: int) -> Motion:
        """Undo in turn the translation, the stretch, the rotation and the enlargement."""
        pixels = moves.shift.new_tensor([width, height]) * self.shift_std
        grow, stretch = (moves.scale * self.scale_std).exp2(), (moves.stretch * self.stretch_std).exp2()
        frame = rotation(moves.along)
        squeeze = frame.mT @ torch.diag_embed(torch.stack([1 / stretch, stretch], 1)) @ frame
        matrix = rotation(moves.angle) @ squeeze / grow[:, None, None]
        return Motion(matrix, -(matrix @ (moves.shift * pixels)[..., None])[..., 0])


def rotation(angle: Tensor) -> Tensor:
    """The matrices [B, 2, 2] that turn x towards y by angles [B]."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([c, -s, s, c], 1).reshape(-1, 2, 2)


def moved(x: Tensor, moves: Moves, motion: Motion) -> Tensor:
    """Images x [B, C, H, W] flipped, then warped. To the bit those of x where nothing is done."""
    for flip, axis in ((moves.flip_x, 3), (moves.flip_y, 2)):
        x = torch.where(flip[:, None, None, None] != 0, x.flip(axis), x)
    there = warped(at_least_float32(x), motion).to(x.dtype)
    return torch.where(moves.warped()[:, None, None, None], there, x)


def warped(x: Tensor, motion: Motion) -> Tensor:
    """Images x [B, C, H, W] under an affine map, reflected beyond their borders and low-passed.

    The method is StyleGAN2-ADA's (2006.06676, appendix B.2), the filter symlet 6, at twice the resolution.

    A reflected image repeats after 2(W - 1) pixels, so one period serves any map. Filters are sums of shifted
    images rather than convolutions, which would round to bfloat16 or TF32 where those are allowed.
    """
    fine = doubled(doubled(reflected(reflected(x, 2), 3), 2), 3)
    fine = grid_sample(pad(fine, (0, 1, 0, 1), "circular"), lattice(x, motion), "bilinear", "border", True)
    return halve_axis(halve_axis(fine, 2), 3)


def lattice(x: Tensor, motion: Motion) -> Tensor:
    """Positions, in [-1, 1], of the half-pixels that `halve_axis` reads, in one period of the reflected x."""
    sides = x.new_tensor([x.shape[3], x.shape[2]], dtype=torch.float64)
    centre, period = (sides - 1) / 2, 2 * (sides - 1)
    i, j = (torch.arange(-5, 2 * n + 5, dtype=torch.float64, device=x.device) / 2 for n in x.shape[2:])
    to = torch.stack([j.expand(len(i), -1), i[:, None].expand(-1, len(j))], -1) - centre
    start = to @ motion.matrix.mT[:, None] + motion.shift[:, None, None] + centre
    return (start.remainder(period) / period * 2 - 1).to(x.dtype)


def reflected(x: Tensor, axis: int) -> Tensor:
    """One period of the reflected images: n pixels, then the n - 2 between the ends, backwards."""
    n = x.shape[axis]
    return torch.cat([x, x.narrow(axis, 1, n - 2).flip(axis)], axis)


def doubled(x: Tensor, axis: int) -> Tensor:
    """A periodic axis at every half-pixel: sample m is at pixel m/2."""
    even = weighted(SYM6[1::2], (x.roll(k - 2, axis) for k in range(6)))
    odd = weighted(SYM6[::2], (x.roll(k - 3, axis) for k in range(6)))
    return torch.stack([even, odd], axis + 1).flatten(axis, axis + 1)


def halve_axis(x: Tensor, axis: int) -> Tensor:
    """The adjoint of `doubled`: pixel n from the half-pixels 2n - 5 to 2n + 6."""
    return weighted(SYM6, x.unfold(axis, len(SYM6), 2).unbind(-1))


def weighted(taps: Iterable[float], terms: Iterable[Tensor]) -> Tensor:
    """Σ tap · term, term by term."""
    total = torch.zeros(())
    for tap, term in zip(taps, terms, strict=True):
        total = total + tap * term
    return total
