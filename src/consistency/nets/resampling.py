"""Layers that change the resolution: a low-pass filter, and every second pixel or twice as many.

They are affine in their input, and `torch.func.jvp` runs through them; see `consistency.nets.layers`.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.nets.layers import affinely, conv


class Resample(nn.Module):
    """A low-pass filter: the outer product of its taps with themselves, normalised to a sum of one.

    Args:
        taps: (1, 1) is a box, (1, 3, 3, 1) the FIR filter of NCSN++. An even number of them.
    """

    kernel: Tensor

    def __init__(self, *taps: float) -> None:
        super().__init__()
        if not taps or len(taps) % 2 or not sum(taps) > 0:
            raise UserError(
                f"net.taps={list(taps)} must be an even number of taps whose sum is greater than 0"
            )
        row = torch.tensor(taps, dtype=torch.float32)
        self.register_buffer("kernel", torch.outer(row, row) / row.sum() ** 2, persistent=False)
        self.padding = (len(taps) - 1) // 2

    def _filtered(self, x: Tensor, conv: Callable[..., Tensor], gain: float = 1.0) -> Tensor:
        kernel = (gain * self.kernel).expand(x.shape[1], 1, -1, -1)
        f = partial(conv, weight=kernel, stride=2, padding=self.padding, groups=x.shape[1])
        return affinely(self, f, f, x)


class Down(Resample):
    """Filter [B, C, H, W] and keep every second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H/2, W/2]."""
        return self._filtered(x, F.conv2d)


class Up(Resample):
    """Spread [B, C, H, W] over twice as many pixels per side."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2H, 2W]."""
        return self._filtered(x, F.conv_transpose2d, gain=4.0)


class PyramidDown(nn.Sequential):
    """One level of the input pyramid: convolve, filter and keep every second pixel, no edge padded twice.

    Args:
        n_in: channels of the level above.
        n_out: channels of this level.
        taps: of the filter.
    """

    def __init__(self, n_in: int, n_out: int, *taps: float) -> None:
        down = Down(*taps)
        margin, down.padding = down.padding, 0
        super().__init__(conv(n_in, n_out, 3, margin=margin), down)
