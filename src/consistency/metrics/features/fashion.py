"""Features of 28x28 garments: a small classifier of Fashion-MNIST, shipped with its weights.

`python -m consistency.metrics.features.fashion FOLDER` trains it again, in some minutes on one core;
FOLDER is torchvision's, with the unpacked IDX files in FashionMNIST/raw.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.metrics.features import classifier
from consistency.metrics.features.classifier import Classifier, Residual, block, mirrored, shifted

WEIGHTS = Path(__file__).with_name("fashion.safetensors")
FLOOR = 1.0  # Fréchet distance between random halves of the training images, after scaling
EPOCHS = 4
SHAPE = (1, 28, 28)


class FashionFeatures(Classifier):
    """64 features of images [B, 1, 28, 28], reported as FD(fashion).

    Args:
        weights: a file written by this module's script.
    """

    def __init__(self, weights: str | Path = WEIGHTS) -> None:
        script = "python -m consistency.metrics.features.fashion FOLDER"
        super().__init__("fashion", body(), nn.Linear(64, 10), SHAPE, Path(weights), script)


def body() -> nn.Sequential:
    """Images [B, 1, 28, 28] in [-1, 1] -> 64 features."""
    return nn.Sequential(
        block(1, 24), nn.MaxPool2d(2),
        block(24, 48), Residual(48), nn.MaxPool2d(2),
        block(48, 64), Residual(64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def augmented(x: Tensor) -> Tensor:
    """Images moved by up to two pixels along both axes, half of them mirrored."""
    return shifted(mirrored(x), 2)


def garments(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """uint8 images [n, 1, 28, 28] and labels [n] of one half of the data set."""
    from torchvision.datasets import FashionMNIST

    try:
        found = FashionMNIST(str(root), train)
    except RuntimeError as error:
        raise UserError(f"{root} lacks FashionMNIST/raw with the four IDX files, unpacked") from error
    return found.data[:, None], found.targets


def train(root: Path, path: Path = WEIGHTS, seed: int = 0, epochs: int = EPOCHS) -> float:
    """Train on the 60,000 images, write the weights, and return the accuracy on the other 10,000."""
    torch.manual_seed(seed)
    data = garments(root, train=True), garments(root, train=False)
    return classifier.train(path, body(), nn.Linear(64, 10), *data, augmented, FLOOR, seed, epochs)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m consistency.metrics.features.fashion FOLDER")
    try:
        train(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {error}")
