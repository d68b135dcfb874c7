"""Distances of restored images from the true ones: PSNR and SSIM of uint8 images [B, C, H, W]."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from consistency.errors import UserError

PEAK = 255.0
WINDOW = 7  # pixels; scikit-image's default
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(images: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, float64 [B]; infinite for equal images."""
    error = (images.double() - true.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(PEAK**2 / error)


def ssim(images: Tensor, true: Tensor) -> Tensor:
    """Structural similarity of each image, float64 [B] (Wang et al. 2004), with scikit-image's defaults.

    The mean over all windows of 7x7 pixels inside the image, with the unbiased covariance.

    Raises:
        UserError: the images are smaller than a window.
    """
    if min(true.shape[-2:]) < WINDOW:
        raise UserError(f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels")
    a, b = images.double(), true.double()
    mean_a, mean_b = window_means(a), window_means(b)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var_a, var_b = (unbiased * (window_means(x * x) - m * m) for x, m in ((a, mean_a), (b, mean_b)))
    covariance = unbiased * (window_means(a * b) - mean_a * mean_b)
    likeness = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return (likeness / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))).flatten(1).mean(1)


def window_means(x: Tensor) -> Tensor:
    """Means over every window."""
    return avg_pool2d(x, WINDOW, stride=1)
