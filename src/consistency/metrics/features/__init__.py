"""What does a metric look at? Frozen networks from uint8 images to features."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.model.portions import portion
from consistency.tensor import weights_sha256


class Seen(NamedTuple):
    """What an extractor sees of n images."""

    features: Tensor  # float32 [n, d]
    logits: Tensor | None = None  # float32 [n, classes]; None of networks that do not classify


class Extractor(nn.Module, ABC):
    """A frozen map from uint8 images [B, C, H, W] to features [B, num_features] in float32.

    It never trains: parameters ask for no gradient and `train()` leaves it in evaluation mode.

    Args:
        name: what distances in this feature space are called after.
        num_features: d.
    """

    resize = "none: images are seen as they are"  # how they are brought to the network's size

    def __init__(self, name: str, num_features: int) -> None:
        super().__init__()
        self.name, self.num_features = name, num_features
        self._largest: dict[tuple[torch.Size, torch.device], int] = {}

    @property
    def metric_name(self) -> str:
        """How a Fréchet distance in these features is reported: only Inception's is called FID."""
        return self.named("FD", "FID")

    def named(self, general: str, inception: str) -> str:
        """The name of a number: one of its own in Inception's features, in others with theirs added."""
        return f"{general}({self.name})"

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of all weights."""
        return weights_sha256(self.state_dict())

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Features [B, d] of uint8 images [B, C, H, W]."""

    def see(self, images: Tensor) -> Seen:
        """Features, and logits where the network classifies, of uint8 images [B, C, H, W]."""
        return Seen(self(images))

    def largest(self, images: Tensor) -> int:
        """How many images [B, C, H, W] it takes at a time, so that a call takes seconds at most on a CPU."""
        key = images.shape[1:], images.device
        if key not in self._largest:
            self._largest[key] = portion(self, lambda: self(images[:1]), images.device)
        return self._largest[key]

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in evaluation mode."""
        return super().train(False)

    def freeze(self) -> None:
        """Last line of a constructor: no gradients, evaluation mode."""
        self.requires_grad_(False).eval()

    def expect(self, images: Tensor, *shape: int | None) -> None:
        """Refuse images that are not uint8 [B, *shape], None standing for any size."""
        fits = len(images.shape) == 4 and all(
            wanted in (None, size) for wanted, size in zip(shape, images.shape[1:], strict=True)
        )
        if images.dtype != torch.uint8 or not fits:
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
            raise UserError(f"{self.metric_name} looks at uint8 images [B, {sizes}], not {found}")

    def coloured(self, images: Tensor, channels: int) -> Tensor:
        """uint8 images [B, 1 or channels, H, W] with all channels; others are refused."""
        grey = images.ndim == 4 and images.shape[1] == 1
        self.expect(images, 1 if grey else channels, None, None)
        return images.expand(-1, channels, -1, -1)
