"""Which pixels are known? (C, H, W) -> bool [H, W]; true is known, false is to be made."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from consistency.errors import UserError, check_seed

Known = Callable[[Sequence[int]], Tensor]  # (C, H, W) -> [H, W]


def left_half(shape: Sequence[int]) -> Tensor:
    """The right half is to be made."""
    *_, H, W = shape
    return (torch.arange(W) < W // 2).expand(H, W).clone()


def all_but_hole(shape: Sequence[int], side: float) -> Tensor:
    """A hole in the middle is to be made.

    Args:
        shape: (C, H, W) of an image.
        side: of the hole, as a share of the image's; 0 < side < 1.
    """
    *_, H, W = shape
    if not 0 < side < 1:
        raise UserError(f"operator.known.side={side} must lie between 0 and 1")
    rows, columns = (((torch.arange(n) + 0.5) / n - 0.5).abs() > side / 2 for n in (H, W))
    return rows[:, None] | columns


def scattered(shape: Sequence[int], share: float, seed: int = 0) -> Tensor:
    """Single pixels are known, here and there.

    Args:
        shape: (C, H, W) of an image.
        share: of the pixels that are known, 0 < share <= 1.
        seed: which.
    """
    *_, H, W = shape
    if not 0 < share <= 1:
        raise UserError(f"operator.known.share={share} must lie above 0 and at most at 1")
    check_seed("operator.known.seed", seed)
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(seed))
    return (order < max(1, round(share * H * W))).reshape(H, W)
