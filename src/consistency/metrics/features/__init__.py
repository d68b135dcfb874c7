"""Feature extractors for metrics: frozen networks from uint8 images to features."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.model.portions import portion
from consistency.tensor import weights_sha256
from consistency.watch import tick


class Seen(NamedTuple):
    """The outputs of an extractor for n images."""

    features: Tensor  # float32 [n, d]
    logits: Tensor | None = None  # float32 [n, classes]; None if the network does not classify


class Extractor(nn.Module, ABC):
    """A frozen map from uint8 images [B, C, H, W] to features [B, num_features] in float32.

    It never trains: parameters have no gradient and `train()` leaves it in evaluation mode.

    Args:
        name: of the features, in the names of distances.
        num_features: d.
    """

    resize = "none: images are seen as they are"  # resizing of the images, for cards

    def __init__(self, name: str, num_features: int) -> None:
        super().__init__()
        self.name, self.num_features = name, num_features
        self._largest: dict[tuple[torch.Size, torch.device], int] = {}

    @property
    def metric_name(self) -> str:
        """Name of the Fréchet distance: `FID` with Inception's features, else `FD(name)`."""
        return self.named("FD", "FID")

    def named(self, general: str, inception: str) -> str:
        """The name of a score: `inception` with Inception's features, else `general(name)`."""
        return f"{general}({self.name})"

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of all weights."""
        return weights_sha256(self.state_dict())

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Features [B, d] of uint8 images [B, C, H, W]."""

    def see(self, images: Tensor) -> Seen:
        """Features of uint8 images [B, C, H, W], and logits if the network classifies."""
        return Seen(self(images))

    def largest(self, images: Tensor) -> int:
        """The batch size for images like these [B, C, H, W] at which a call takes seconds at most."""
        key = images.shape[1:], images.device
        if key not in self._largest:
            self._largest[key] = portion(self, lambda: self(images[:1]), images.device)
        return self._largest[key]

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in evaluation mode."""
        return super().train(False)

    def freeze(self) -> None:
        """Turn off gradients and training mode; constructors of subclasses end with this call."""
        self.requires_grad_(False).eval()

    def expect(self, images: Tensor, *shape: int | None) -> None:
        """Raise UserError unless images are uint8 [B, *shape]; None is any size."""
        fits = len(images.shape) == 4 and all(
            wanted in (None, size) for wanted, size in zip(shape, images.shape[1:], strict=True)
        )
        if images.dtype != torch.uint8 or not fits:
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
            raise UserError(f"{self.metric_name} looks at uint8 images [B, {sizes}], not {found}")

    def coloured(self, images: Tensor, channels: int) -> Tensor:
        """uint8 images [B, 1 or channels, H, W] -> [B, channels, H, W], grey ones repeated."""
        grey = images.ndim == 4 and images.shape[1] == 1
        self.expect(images, 1 if grey else channels, None, None)
        return images.expand(-1, channels, -1, -1)


def see(images: Tensor, extractor: Extractor) -> Seen:
    """Features, and logits if any, of uint8 images [B, C, H, W], returned on the CPU."""
    device = device_of(extractor)
    with without_gradients(device):
        images = images.to(device)
        parts = []
        for some in images.split(extractor.largest(images)):
            seen = extractor.see(some)
            parts.append(Seen(seen.features.cpu(), None if seen.logits is None else seen.logits.cpu()))
            tick()
    return parts[0] if len(parts) == 1 else merge_seen(parts)


def merge_seen(parts: list[Seen]) -> Seen:
    """Concatenate outputs."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Seen(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)


def features(images: Tensor, extractor: Extractor, batch: int = 256) -> Tensor:
    """Features of uint8 images [n, C, H, W]: float32 [n, d]."""
    return merge_seen([see(part, extractor) for part in images.split(batch)]).features


def device_of(extractor: Extractor) -> torch.device:
    """The device of an extractor's weights; the CPU if it has none."""
    return next(chain(extractor.parameters(), extractor.buffers()), torch.empty(0)).device


@contextmanager
def without_gradients(device: torch.device) -> Iterator[None]:
    """Disable gradients, autocast (it changes distances by 1e-3) and inference mode."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
