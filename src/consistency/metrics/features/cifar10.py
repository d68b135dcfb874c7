"""Features of 32x32 colour images: a small classifier of CIFAR-10's classes, shipped with its weights.

`python -m consistency.metrics.training.cifar10 FOLDER` trains it again, in about half an hour on one core;
FOLDER holds train/CLASS/ and test/CLASS/ with image files. The shipped weights come from CIFAR-10's images as
JPEG files of quality 75. Its distances compare models of such images with one another; they are not FID.
"""

from pathlib import Path

from torch import nn

from consistency.metrics.features.classifier import Classifier, Residual, conv_norm_block

WEIGHTS = Path(__file__).with_name("cifar10.safetensors")
SHAPE = (3, 32, 32)


class Cifar10Features(Classifier):
    """128 features of images [B, 3, 32, 32], reported as FD(cifar10-small).

    Args:
        weights: a file written by `consistency.metrics.training.cifar10`.
    """

    def __init__(self, weights: str | Path = WEIGHTS) -> None:
        script = "python -m consistency.metrics.training.cifar10 FOLDER"
        super().__init__("cifar10-small", cifar10_body(), nn.Linear(128, 10), SHAPE, Path(weights), script)


def cifar10_body() -> nn.Sequential:
    """Images [B, 3, 32, 32] in [-1, 1] -> 128 features."""
    return nn.Sequential(
        conv_norm_block(3, 32), nn.MaxPool2d(2),
        conv_norm_block(32, 64), Residual(64), nn.MaxPool2d(2),
        conv_norm_block(64, 128), Residual(128), nn.MaxPool2d(2),
        conv_norm_block(128, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
