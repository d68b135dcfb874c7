"""Pictures of samples: grids of images, and plots of points."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from consistency.errors import UserError


def picture(samples: Tensor, count: int = 64, least: int = 480) -> Image.Image:
    """A square grid of uint8 images [B, C, H, W], or a plot of points [B, 2].

    Args:
        samples: at least one sample.
        count: number of images in the grid, at most; points are all drawn.
        least: least width of the grid in pixels; small images are enlarged by whole factors.
    """
    return grid(samples if samples.ndim == 2 else samples[:count], least)


def grid(samples: Tensor, least: int = 480, columns: int | None = None) -> Image.Image:
    """Samples as one picture, to `save(path)`: images with thin lines between them, or a plot of points.

    Args:
        samples: uint8 images [B, C, H, W], or points [B, 2].
        least: least width of the grid in pixels; small images are enlarged by whole factors.
        columns: number of columns of the grid; None for a square.

    Raises:
        UserError: the samples are neither.
    """
    if samples.ndim == 2 and samples.shape[1] == 2:
        return cloud(samples)
    if samples.ndim != 4 or samples.dtype != torch.uint8 or samples.shape[1] not in (1, 3):
        raise UserError(
            f"grid() shows uint8 images [B, 1 or 3, H, W] and points [B, 2], not {samples.dtype} "
            f"{list(samples.shape)}"
        )
    from torchvision.utils import make_grid

    columns = columns or math.ceil(math.sqrt(len(samples)))
    pixels = make_grid(samples, nrow=columns, padding=1, pad_value=128).permute(1, 2, 0).numpy()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = math.ceil(least / image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def beside(samples: Tensor, others: Tensor, rows: int = 8, least: int = 240) -> Image.Image:
    """A picture with a row per sample: the image, a gap, and its k other images.

    Args:
        samples: uint8 images [n, C, H, W].
        others: uint8 images [n, k, C, H, W].
        rows: largest number of rows.
        least: least width in pixels, as in `grid`.
    """
    rows = min(rows, len(samples))
    gap = torch.full_like(samples[:rows], 255)
    lines = torch.cat([samples[:rows, None], gap[:, None], others[:rows]], 1)
    return grid(lines.flatten(0, 1), least, columns=lines.shape[1])


def cloud(points: Tensor) -> Image.Image:
    """A scatter plot of points [B, 2] in [-1.5, 1.5]²."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.8), layout="constrained", dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.scatter(*points.double().T.numpy(), s=1.5, alpha=0.4, linewidths=0, color="#1f4e79")
    axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
