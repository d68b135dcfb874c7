"""Trains the classifier of 32x32 colour images on FOLDER/train/CLASS/, in half an hour on one core."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.metrics.features.cifar10 import SHAPE, WEIGHTS, cifar10_body
from consistency.metrics.training import classifier
from consistency.metrics.training.classifier import mirrored, shifted

FLOOR = 1.0  # Fréchet distance between random halves of the training images, after scaling
EPOCHS = 16


def augment_cifar10(x: Tensor) -> Tensor:
    """Images moved by up to four pixels along both axes, half of them mirrored."""
    return shifted(mirrored(x), 4)


def folder(root: Path) -> tuple[Tensor, Tensor]:
    """All images below ROOT/CLASS/: uint8 [n, 3, 32, 32], and labels [n], classes in alphabetical order."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    try:
        found = [(pil_to_tensor(image), label) for image, label in ImageFolder(root)]
        images = torch.stack([image for image, _ in found])
    except (OSError, RuntimeError) as error:
        raise UserError(f"{root}: {error}; it must hold CLASS/FILE images of 32x32 pixels") from error
    if images.shape[1:] != SHAPE:
        size = "x".join(map(str, images.shape[2:]))
        raise UserError(f"{root} holds images of {size} pixels: resize them to 32x32")
    return images, torch.tensor([label for _, label in found])


def train_cifar10(root: Path, path: Path = WEIGHTS, seed: int = 0, epochs: int = EPOCHS) -> float:
    """Train on ROOT/train, write the weights, and return the accuracy on ROOT/test."""
    torch.manual_seed(seed)
    data = folder(root / "train"), folder(root / "test")
    return classifier.train_classifier(
        path, cifar10_body(), nn.Linear(128, 10), *data, augment_cifar10, FLOOR, seed, epochs, smoothing=0.1
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m consistency.metrics.training.cifar10 FOLDER")
    try:
        train_cifar10(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {error}")
