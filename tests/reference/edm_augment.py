"""What EDM's own pipeline (`AugmentPipe`, published with 2206.00364) makes of two images of 16 x 12 pixels.

It ran in float64 with its random numbers replaced by those below. It pads images by what it thinks a batch
needs, so that its results hang on the batch to about 1e-6 near the borders.
"""

import math

import torch
from torch import Tensor

FLIP_X, FLIP_Y, SCALE, ANGLE = (1.0, 0.0), (0.0, 1.0), (0.5, -0.3), (0.7, -2.5)
STRETCH, ALONG, SHIFT = (-0.8, 1.1), (0.4, 0.0), ((0.3, -0.6), (-0.5, 0.2))

LABELS = (
    [1, 0, 0.5, -0.235157813, 0.644217687, -0.736848795, -0.311534674, 0.3, -0.6],
    [0, 1, -0.3, -1.801143616, -0.598472144, 1.1, 0, -0.5, 0.2],
)

# {(row, column): both channels of both images}.
PIXELS = {
    (3, 2): ([-0.935965342, 0.780507053], [-0.654907073, 0.867563314]),
    (15, 11): ([-0.939186663, 0.788067741], [-0.039224057, -0.307100132]),
    (8, 6): ([0.966397813, -0.861486915], [0.599639580, -0.832211425]),
}


def images() -> Tensor:
    """Both images, of two channels."""
    return torch.arange(2 * 2 * 16 * 12, dtype=torch.float64).sin().reshape(2, 2, 16, 12)


def uniform() -> list[tuple[float, float]]:
    """The uniform numbers that make it so, in the order of `NonLeaky.drawn`: which parts, then how."""
    coin_x, coin_y = (tuple(0.9 - 0.8 * flip for flip in flips) for flips in (FLIP_X, FLIP_Y))
    angle, along = (tuple((v / math.pi + 1) / 2 for v in angles) for angles in (ANGLE, ALONG))
    return [(0.0, 0.0)] * 5 + [coin_x, coin_y, (0.0, 0.9), angle, along]


def normal() -> list[list[float]]:
    """The normal numbers, [2, 4]."""
    return [[n, s, *shift] for n, s, shift in zip(SCALE, STRETCH, SHIFT, strict=True)]
