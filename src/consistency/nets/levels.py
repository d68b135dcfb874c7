"""The resolution levels of a U-Net, and the images that can be halved so often."""

from collections.abc import Sequence
from typing import NamedTuple

from consistency.errors import UserError


class Level(NamedTuple):
    """One resolution of a U-Net."""

    width: int
    attention: bool


def resolutions_of(shape: Sequence[int], levels: int, patch: int = 1) -> list[int]:
    """The resolution of each level, or the user's error.

    Args:
        shape: (C, H, W) at the first level.
        levels: each has half the resolution of the one before.
        patch: side of the squares of pixels that the first level takes as one, for the message.
    """
    if len(shape) != 3:
        raise UserError(f"this network needs images, not data of shape {tuple(shape)}: choose net=mlp")
    halvings, (_, height, width) = levels - 1, shape
    if height % 2**halvings or width % 2**halvings:
        size = f"{height}x{width}" + (f" (after net.patch={patch})" if patch > 1 else "")
        raise UserError(
            f"net.multipliers has {levels} levels, but {size} cannot be halved {halvings} times:"
            f" shorten it, or make data.resolution a multiple of {patch * 2**halvings}"
        )
    return [height // 2**i for i in range(levels)]


def patched(shape: Sequence[int], patch: int) -> Sequence[int]:
    """The shape of an image [C, H, W] whose pixels are squares of so many, or the user's error."""
    if patch == 1 or (patch > 1 and len(shape) != 3):
        return shape
    C, H, W = (*shape, 1, 1)[:3]
    if patch < 1 or H % patch or W % patch:
        raise UserError(f"net.patch={patch} must divide the {H}x{W} pixels of an image")
    return C * patch**2, H // patch, W // patch


def check_divides(levels: Sequence[Level], key: str, divisor: int) -> None:
    """Refuse levels whose channels are no multiple of the value of `net.key`."""
    for level in levels:
        if level.width % divisor:
            raise UserError(
                f"net.{key}={divisor} does not divide the {level.width} channels of a level: change it, or"
                " net.channels"
            )
