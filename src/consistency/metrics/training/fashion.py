"""Trains the classifier of Fashion-MNIST on the unpacked IDX files in FOLDER/FashionMNIST/raw."""

from pathlib import Path

from torch import Tensor

from consistency.errors import UserError
from consistency.metrics.features.fashion import WEIGHTS, fashion_body
from consistency.metrics.training.classifier import Recipe, mirror_half, shift_images


def augment_fashion(x: Tensor) -> Tensor:
    """Shift images [B, 1, 28, 28] by up to two pixels along both axes, and mirror half of them."""
    return shift_images(mirror_half(x), 2)


def load_garments(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """uint8 images [n, 1, 28, 28] and labels [n]: 60,000 for training, or the other 10,000.

    Raises:
        UserError: the files are missing.
    """
    from torchvision.datasets import FashionMNIST

    try:
        found = FashionMNIST(str(root), train)
    except RuntimeError as error:
        raise UserError(f"{root} lacks FashionMNIST/raw with the four IDX files, unpacked") from error
    return found.data[:, None], found.targets


RECIPE = Recipe("fashion", WEIGHTS, fashion_body, 64, load_garments, augment_fashion, epochs=4)

if __name__ == "__main__":
    RECIPE.main()
