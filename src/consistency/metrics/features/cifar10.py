"""Features of 32x32 colour images: a small classifier of CIFAR-10's classes, shipped with its weights.

`python -m consistency.metrics.features.cifar10 FOLDER` trains it again, in about half an hour on one core;
FOLDER holds train/CLASS/ and test/CLASS/ with image files. The shipped weights come from CIFAR-10's images as
JPEG files of quality 75: good enough to compare models of such images with one another, and never comparable
with FID.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.metrics.features import classifier
from consistency.metrics.features.classifier import Classifier, Residual, block, mirrored, shifted

WEIGHTS = Path(__file__).with_name("cifar10.safetensors")
FLOOR = 1.0  # Fréchet distance between random halves of the training images, after scaling
EPOCHS = 16
SHAPE = (3, 32, 32)


class Cifar10Features(Classifier):
    """128 features of images [B, 3, 32, 32], reported as FD(cifar10-small).

    Args:
        weights: a file written by this module's script.
    """

    def __init__(self, weights: str | Path = WEIGHTS) -> None:
        script = "python -m consistency.metrics.features.cifar10 FOLDER"
        super().__init__("cifar10-small", body(), nn.Linear(128, 10), SHAPE, Path(weights), script)


def body() -> nn.Sequential:
    """Images [B, 3, 32, 32] in [-1, 1] -> 128 features."""
    return nn.Sequential(
        block(3, 32), nn.MaxPool2d(2),
        block(32, 64), Residual(64), nn.MaxPool2d(2),
        block(64, 128), Residual(128), nn.MaxPool2d(2),
        block(128, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def augmented(x: Tensor) -> Tensor:
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


def train(root: Path, path: Path = WEIGHTS, seed: int = 0, epochs: int = EPOCHS) -> float:
    """Train on ROOT/train, write the weights, and return the accuracy on ROOT/test."""
    torch.manual_seed(seed)
    data = folder(root / "train"), folder(root / "test")
    return classifier.train(
        path, body(), nn.Linear(128, 10), *data, augmented, FLOOR, seed, epochs, smoothing=0.1
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m consistency.metrics.features.cifar10 FOLDER")
    try:
        train(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {error}")
