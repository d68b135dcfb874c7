"""Augmentation labels of a training run and the network that they are given to."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.nets.adm import ADM
from consistency.nets.unet import UNet
from consistency.objectives.augmentation import Augmentation
from consistency.schedule.draws import StepDraws


def fit_augmentation(augmentation: Augmentation, net: nn.Module, shape: Sequence[int]) -> None:
    """Refuse an augmentation that does not fit the data or the network; freeze labels that it does not give.

    Args:
        augmentation: of the training images.
        net: the network in training.
        shape: of a sample.

    Raises:
        UserError: it does not fit.
    """
    labels = augmentation(torch.zeros(1, *shape), StepDraws(0))[1]
    check_augmentation_labels(labels, net)
    if labels is None:
        freeze_augmentation_labels(net)


def freeze_augmentation_labels(net: nn.Module) -> None:
    """Do not train the parameters of augmentation labels, in a run that has no such labels.

    They get no gradient and keep their values; distributed training would wait for their gradients.
    """
    if isinstance(net, UNet | ADM):
        net.conditioning.of_augmentation().requires_grad_(False)


def check_augmentation_labels(labels: Tensor | None, net: nn.Module) -> None:
    """Refuse augmentation labels [B, L] where the network has no input of L numbers for them."""
    drawn, accepted = 0 if labels is None else labels.shape[1], getattr(net, "augment", 0)
    if drawn not in (0, accepted):
        raise UserError(
            f"augmentation labels are {drawn} numbers but net.augment={accepted}: use a U-Net with "
            f"net.augment={drawn}, or augmentation=none"
        )
