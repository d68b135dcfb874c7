"""Trains the classifier of Fashion-MNIST, whose unpacked IDX files lie in FOLDER/FashionMNIST/raw."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.metrics.features.fashion import WEIGHTS, fashion_body
from consistency.metrics.training import classifier
from consistency.metrics.training.classifier import mirrored, shifted

FLOOR = 1.0  # Fréchet distance between random halves of the training images, after scaling
EPOCHS = 4


def augment_fashion(x: Tensor) -> Tensor:
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


def train_fashion(root: Path, path: Path = WEIGHTS, seed: int = 0, epochs: int = EPOCHS) -> float:
    """Train on the 60,000 images, write the weights, and return the accuracy on the other 10,000."""
    torch.manual_seed(seed)
    data = garments(root, train=True), garments(root, train=False)
    return classifier.train_classifier(
        path, fashion_body(), nn.Linear(64, 10), *data, augment_fashion, FLOOR, seed, epochs
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m consistency.metrics.training.fashion FOLDER")
    try:
        train_fashion(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {error}")
