"""Features of a convolutional network with random weights, for any images."""

import torch
from torch import Tensor, nn

from consistency.errors import check_seed, within
from consistency.metrics.features import Extractor


class RandomConvFeatures(Extractor):
    """64 features of images [B, 1 or channels, H, W], reported as FD(random-conv).

    Random filters detect degradations of images cheaply and without a download, but not their content.
    Compare such a distance only with others of the same seed and the same data.

    Args:
        channels: number of channels; grey images are repeated over them.
        seed: of the weights, which are He-normal and never change.
        name: of the features; choose another name with another seed.
    """

    def __init__(self, channels: int = 3, seed: int = 0, name: str = "random-conv") -> None:
        within("metric.extractor", 1, 1024, channels=channels)
        check_seed("metric.extractor.seed", seed)
        super().__init__(name, num_features=64)
        self.channels = channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        draw_weights(self.body, torch.Generator().manual_seed(seed))
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 64] of uint8 images [B, 1 or channels, H, W]."""
        return self.body(self.coloured(images, self.channels).float() / 127.5 - 1)


@torch.no_grad()
def draw_weights(net: nn.Module, generator: torch.Generator) -> None:
    """He-normal weights and small normal biases, from the generator alone."""
    for value in net.parameters():
        std = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
        value.copy_(std * torch.randn(value.shape, generator=generator))
