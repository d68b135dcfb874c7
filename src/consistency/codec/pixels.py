"""Pixels as inputs of networks: (u - offset) / scale of uint8 images u."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from consistency.codec.codec import Codec, Shape
from consistency.errors import UserError, positive
from consistency.schedule.draws import Draws

ROUNDING = "to the nearest level, as EDM's truncate(127.5 x + 128)"  # of every codec of images, for cards


@dataclass(frozen=True)
class Pixels:
    """uint8 images u [B, C, H, W] <-> z = (u - offset)/scale.

    Args:
        offset: in units of a pixel; 127.5 with the same scale maps [0, 255] to [-1, 1].
        scale: in units of a pixel, positive.
    """

    offset: float = 127.5
    scale: float = 127.5

    def __post_init__(self) -> None:
        positive("data", scale=self.scale)

    @property
    def visible(self) -> bool:
        """True: u are images."""
        return True

    @property
    def range(self) -> tuple[float, float]:
        """z of black and of white."""
        low, high = self.encode(torch.tensor([0, 255])).tolist()
        return low, high

    def encoded(self, shape: Sequence[int]) -> Shape:
        """(C, H, W), unchanged."""
        return image_shape("Pixels", shape)

    def decoded(self, shape: Sequence[int]) -> Shape:
        """(C, H, W), unchanged."""
        return image_shape("Pixels", shape)

    def encode(self, u: Tensor, draws: Draws | None = None) -> Tensor:
        """uint8 -> float32; `draws` is not used."""
        return (u.float() - self.offset) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """The nearest uint8 images; decoding an encoded image returns it exactly.

        For z in [-1, 1] this truncates 127.5 z + 128, as EDM does; truncating 127.5 (z + 1) would change
        dozens of the 256 levels.
        """
        return (z.float() * self.scale + (self.offset + 0.5)).clamp(0, 255).to(torch.uint8)

    def program(self) -> None:
        """None: z are pixels already."""

    def describe(self) -> dict[str, Any]:
        """u = scale z + offset."""
        return {"codec": "Pixels", "offset": self.offset, "scale": self.scale}


def image_shape(name: str, shape: Sequence[int]) -> Shape:
    """The shape of an image, (C, H, W).

    Args:
        name: of the codec, for the message.
        shape: of one sample.

    Raises:
        UserError: it is not the shape of an image.
    """
    if len(shape) != 3:
        raise UserError(f"data.codec={name} is for images [C, H, W], and samples are {list(shape)}")
    return tuple(shape)


def pixels_of(codec: Codec, what: str, remedy: str) -> Pixels:
    """The codec as `Pixels`, for code that works on pixels only.

    Args:
        codec: of the model.
        what: subject and verb of the message, such as `export=web draws`.
        remedy: for a model with another codec, for the message.

    Raises:
        UserError: the model is in another space; names the codec.
    """
    if type(codec) is not Pixels:  # a subclass may do anything
        raise UserError(
            f"{what} pixels, and this model sees what {codec_name(codec)} makes of them: {remedy}"
        )
    return codec


def codec_name(codec: Codec) -> str:
    """The class of a codec, for messages."""
    return f"data.codec={type(codec).__name__}"
