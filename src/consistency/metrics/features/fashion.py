"""Features of 28x28 garments: a small classifier of Fashion-MNIST, shipped with its weights.

`python -m consistency.metrics.training.fashion FOLDER` trains it again, in some minutes on one core;
FOLDER is torchvision's, with the unpacked IDX files in FashionMNIST/raw.
"""

from pathlib import Path

from torch import nn

from consistency.metrics.features.classifier import Classifier, Residual, conv_norm_block

WEIGHTS = Path(__file__).with_name("fashion.safetensors")
SHAPE = (1, 28, 28)


class FashionFeatures(Classifier):
    """64 features of images [B, 1, 28, 28], reported as FD(fashion).

    Args:
        weights: a file written by `consistency.metrics.training.fashion`.
    """

    def __init__(self, weights: str | Path = WEIGHTS) -> None:
        script = "python -m consistency.metrics.training.fashion FOLDER"
        super().__init__("fashion", fashion_body(), nn.Linear(64, 10), SHAPE, Path(weights), script)


def fashion_body() -> nn.Sequential:
    """Images [B, 1, 28, 28] in [-1, 1] -> 64 features."""
    return nn.Sequential(
        conv_norm_block(1, 24), nn.MaxPool2d(2),
        conv_norm_block(24, 48), Residual(48), nn.MaxPool2d(2),
        conv_norm_block(48, 64), Residual(64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
