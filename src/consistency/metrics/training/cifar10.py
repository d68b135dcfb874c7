"""Trains the classifier of 32x32 colour images on FOLDER/train/CLASS/, in half an hour on one core."""

from pathlib import Path

import torch
from torch import Tensor

from consistency.errors import UserError
from consistency.metrics.features.cifar10 import SHAPE, WEIGHTS, cifar10_body
from consistency.metrics.training.classifier import Recipe, mirror_half, shift_images


def augment_cifar10(x: Tensor) -> Tensor:
    """Shift images [B, 3, 32, 32] by up to four pixels along both axes, and mirror half of them."""
    return shift_images(mirror_half(x), 4)


def load_folder(root: Path) -> tuple[Tensor, Tensor]:
    """All images in ROOT/CLASS/: uint8 [n, 3, 32, 32], and labels [n], classes in alphabetical order.

    Raises:
        UserError: there are no images, or they have another size.
    """
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


def load_split(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Images and labels of ROOT/train or ROOT/test, as `load_folder` returns them."""
    return load_folder(root / ("train" if train else "test"))


RECIPE = Recipe("cifar10", WEIGHTS, cifar10_body, 128, load_split, augment_cifar10, epochs=16, smoothing=0.1)

if __name__ == "__main__":
    RECIPE.main()
