"""A codec of another space, as another package would bring it: one class, chosen by data.codec."""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from consistency.codec.pixels import Pixels
from consistency.errors import UserError

HAAR = 0.5 * torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float32)


@dataclass(frozen=True)
class Blocks:
    """Images [B, C, H, W] as coefficients of 2x2 blocks [B, 4C, H/2, W/2] in the orthonormal Haar basis.

    Args:
        offset: of pixels, as in `Pixels`.
        scale: likewise.
    """

    offset: float = 127.5
    scale: float = 127.5

    visible = True
    range = (-float("inf"), float("inf"))

    def encoded(self, shape):
        if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
            raise UserError(f"data.codec=Blocks is for images of even sides, and samples are {list(shape)}")
        return 4 * shape[0], shape[1] // 2, shape[2] // 2

    def decoded(self, shape):
        if len(shape) != 3 or shape[0] % 4:
            raise UserError(
                f"data.codec=Blocks makes 4, 8, ... channels, and the network is for {list(shape)}"
            )
        return shape[0] // 4, 2 * shape[1], 2 * shape[2]

    def encode(self, u, draws=None):
        x = pixel_unshuffle(Pixels(self.offset, self.scale).encode(u), 2)
        return turned(x, HAAR)

    def decode(self, z):
        return Pixels().decode(Inverse(self.scale / 127.5, self.offset / 127.5 - 1)(z.float()))

    def program(self):
        return Inverse(self.scale / 127.5, self.offset / 127.5 - 1)

    def describe(self):
        return {"codec": type(self).__name__, **asdict(self)}


class Inverse(nn.Module):
    """Coefficients -> images in [-1, 1]."""

    def __init__(self, scale, shift):
        super().__init__()
        self.scale, self.shift = scale, shift
        self.register_buffer("basis", HAAR.T.contiguous().clone())

    def forward(self, z):
        return self.scale * pixel_shuffle(turned(z, self.basis), 2) + self.shift


def turned(x, basis):
    """Every four channels by a matrix."""
    return torch.einsum("ij,bcjhw->bcihw", basis.to(x.device), x.unflatten(1, (-1, 4))).flatten(1, 2)


@dataclass(frozen=True)
class Crooked(Blocks):
    """A program that makes other images than `decode`."""

    def program(self):
        return Inverse(-self.scale / 127.5, self.offset / 127.5 - 1)
